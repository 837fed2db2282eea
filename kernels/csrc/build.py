"""Builds the CUDA kernels: ``python kernels/csrc/build.py``.

Compiles every ``.cu`` of this folder for each target and links them, with the binding
to torch, to the library that `uqlib_kernels.cuda` loads. Needs nvcc, the compiler of
the host, and torch for its headers, which are of a stable interface: the library is of
no version of Python, and of no version of torch from 2.11 on.

With ``--cubin-only`` it needs neither torch nor a GPU: it writes machine code for each
target, prints what each kernel takes of the machine, and fails if a kernel keeps
variables in memory because registers did not suffice.

What was compiled is kept and used again while neither sources nor options change.
"""

import argparse
import concurrent.futures
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "LIBRARY",
    "TARGETS",
    "BuildError",
    "Compiler",
    "Usage",
    "build_cubins",
    "build_library",
    "compiler",
    "main",
    "sources",
    "usage_of",
]

CSRC = Path(__file__).resolve().parent
LIBRARY = "libuqlib_kernels_cuda.so"
LIBRARY_FOLDER = CSRC.parent / "uqlib_kernels" / "cuda" / "_lib"
BUILD_FOLDER = CSRC / "build"

# Machine code of two generations, and PTX, which drivers compile for later ones.
TARGETS = ("sm_80", "sm_90a", "compute_90")
FLAGS = ("-std=c++17", "-O3", "-fmad=false", "-Xcompiler=-fPIC", "-Xptxas=-v")
BINDING = "binding.cpp"
BINDING_FLAGS = (
    "-std=c++17",
    "-O2",
    "-Xcompiler=-fPIC",
    "-DUSE_CUDA",
    # The oldest torch that the library works with: 2.11.
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
)


class BuildError(RuntimeError):
    """Something is missing, or a compiler refused."""


class Usage(NamedTuple):
    """What a kernel takes of the machine, as ptxas says."""

    source: str
    target: str
    kernel: str  # as mangled
    registers: int
    stack: int  # bytes of local memory, here and below
    spill_stores: int
    spill_loads: int
    shared: int  # bytes that are not given at launch

    @property
    def in_memory(self) -> bool:
        """Whether variables lie in local memory."""
        return bool(self.stack or self.spill_stores or self.spill_loads)


class Compiler(NamedTuple):
    """An nvcc, and its version, which what it makes depends on."""

    path: str
    version: str


# ---------------------------------------------------------------------------
# What there is.


def compiler(given: str | None = None) -> Compiler:
    """Return the given nvcc, or the one of CUDA_HOME, or that of the path."""
    name = "nvcc.exe" if os.name == "nt" else "nvcc"
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [str(Path(home) / "bin" / name) for home in homes if home]
    places += [name, f"/usr/local/cuda/bin/{name}"]
    found = next(filter(None, map(shutil.which, [given] if given else places)), None)
    if found is None:
        looked = given or "CUDA_HOME, CUDA_PATH, PATH and /usr/local/cuda"
        raise BuildError(
            f"no nvcc was found at {looked}. It is part of the CUDA toolkit, 13.0 or "
            "later (https://developer.nvidia.com/cuda-downloads): install it, set "
            "CUDA_HOME to its folder, or pass --nvcc with its path."
        )
    return Compiler(found, _run([found, "--version"]))


def sources(folder: Path = CSRC) -> list[Path]:
    """Return the files of kernels."""
    found = sorted(folder.glob("*.cu"))
    if not found:
        raise BuildError(f"there are no .cu files in {folder}.")
    return found


def _torch_folder() -> Path:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise BuildError(
            "torch is not installed for this Python: run build.py with the Python that "
            "has torch 2.11 or later, or pass --cubin-only or --without-torch."
        )
    return Path(spec.origin).parent


# ---------------------------------------------------------------------------
# Compiling, once for each state of the sources.


def _run(command: Sequence[str]) -> str:
    """Run a command and return what it says; raise with that if it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{said}failed ({done.returncode}).")
    return said


def _with_headers(source: Path) -> list[Path]:
    """Return a file and those of its folder that it includes, at any depth."""
    found = [source]
    for path in found:
        for name in re.findall(rb'#\s*include\s+"([^"]+)"', path.read_bytes()):
            header = path.parent / name.decode()
            if header.is_file() and header not in found:
                found.append(header)
    return found


class _Step(NamedTuple):
    """A file to compile, and how."""

    source: Path
    command: tuple[str, ...]
    name: str  # of what is made, without the key and the end
    end: str
    version: str  # of what is not in the command

    def made(self, folder: Path) -> tuple[Path, str]:
        """Return what was made, and what the compiler said, from `folder` if it can.

        The name holds a hash of all that the step depends on, and a file comes into
        being whole, so that builds at the same time do not meet.
        """
        key = hashlib.sha256("\0".join([*self.command, self.version]).encode())
        for path in _with_headers(self.source):
            key.update(path.read_bytes())
        kept = folder / f"{self.name}.{key.hexdigest()[:16]}{self.end}"
        log = kept.with_suffix(".log")
        if not (kept.exists() and log.exists()):
            folder.mkdir(parents=True, exist_ok=True)
            part = kept.with_suffix(f".{os.getpid()}{self.end}")
            said = _run([*self.command, str(self.source), "-o", str(part)])
            part_log = part.with_suffix(".log")
            part_log.write_text(said, encoding="utf-8")
            part_log.replace(log)
            part.replace(kept)
            self._forget_others(kept)
        return kept, log.read_text(encoding="utf-8")

    def _forget_others(self, kept: Path) -> None:
        of_step = re.compile(rf"{re.escape(self.name)}\.[0-9a-f]{{16}}\.\w+")
        for path in kept.parent.iterdir():
            if of_step.fullmatch(path.name) and path.stem != kept.stem:
                path.unlink(missing_ok=True)


def _run_steps(
    steps: Sequence[_Step], folder: Path, jobs: int
) -> list[tuple[Path, str]]:
    with concurrent.futures.ThreadPoolExecutor(max(jobs, 1)) as pool:
        running = [pool.submit(step.made, folder) for step in steps]
        try:
            made = [task.result() for task in running]
        finally:
            for task in running:
                task.cancel()
    for _, said in made:
        for line in said.splitlines():
            if "warning" in line.lower():
                print(line, file=sys.stderr)
    return made


def _target_flags(targets: Iterable[str]) -> list[str]:
    flags = []
    for target in targets:
        match = re.fullmatch(r"(sm|compute)_([0-9]+[af]?)", target)
        if match is None:
            raise BuildError(
                f"--arch {target} is not of the form sm_90a or compute_90."
            )
        # The long form: the short one compiles sm_90a for sm_90 as well.
        flags.append(f"-gencode=arch=compute_{match[2]},code={target}")
    return flags


# ---------------------------------------------------------------------------
# What ptxas says of kernels.


def usage_of(source: str, said: str) -> list[Usage]:
    """Return what kernels take, from what nvcc said of a file."""
    found: list[Usage] = []
    kernel, target, memory = "", "", (0, 0, 0)
    for line in said.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for '(\S+)'", line):
            kernel, target = match.groups()
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads",
            line,
        ):
            memory = (int(match[1]), int(match[2]), int(match[3]))
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            static = int(shared[1]) if shared else 0
            found.append(Usage(source, target, kernel, int(match[1]), *memory, static))
            memory = (0, 0, 0)
    return found


def _readable(names: Sequence[str]) -> list[str]:
    """Return names as they are in the source, without types of arguments."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return list(names)
    given = "\n".join(names)
    done = subprocess.run([tool], input=given, capture_output=True, text=True)
    plain = [
        re.sub(r"\(anonymous namespace\)::|\buqlib::|^void |\((?!\w+\)\d).*$", "", name)
        for name in done.stdout.splitlines()
    ]
    return plain if len(plain) == len(names) else list(names)


def table(kernels: Sequence[Usage]) -> str:
    """Return what kernels take of the machine, a line each."""
    names = _readable([usage.kernel for usage in kernels])
    header = ("kernel", "target", "registers", "stack", "spills", "shared")
    rows: list[tuple[str, ...]] = [header]
    for name, usage in zip(names, kernels, strict=True):
        spills = usage.spill_stores + usage.spill_loads
        numbers = (usage.registers, usage.stack, spills, usage.shared)
        rows.append((f"{usage.source}: {name}", usage.target, *map(str, numbers)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padded = zip(row, widths, "<<>>>>", strict=True)
        lines.append("  ".join(f"{part:{side}{width}}" for part, width, side in padded))
    return "\n".join(lines)


# ---------------------------------------------------------------------------
# What is built.


def build_cubins(
    output: Path,
    targets: Sequence[str] = TARGETS,
    *,
    nvcc: Compiler | None = None,
    jobs: int = 1,
    csrc: Path = CSRC,
    build: Path = BUILD_FOLDER,
    flags: Sequence[str] = FLAGS,
) -> list[Usage]:
    """Write ``<source>.<target>.cubin`` for each file and target; return the usage."""
    nvcc = nvcc or compiler()
    targets = [target for target in targets if target.startswith("sm_")]
    steps: list[_Step] = []
    for source in sources(csrc):
        for target in targets:
            command = (nvcc.path, "-cubin", *flags, *_target_flags([target]))
            name = f"{source.stem}.{target}"
            steps.append(_Step(source, command, name, ".cubin", nvcc.version))
    made = _run_steps(steps, build, jobs)
    output.mkdir(parents=True, exist_ok=True)
    for step, (cubin, _) in zip(steps, made, strict=True):
        # Whole or not at all: somebody may be reading the one before.
        part = output / f"{step.name}.{os.getpid()}"
        shutil.copyfile(cubin, part)
        part.replace(output / f"{step.name}.cubin")
    return _usage(steps, made)


def build_library(
    output: Path = LIBRARY_FOLDER,
    targets: Sequence[str] = TARGETS,
    *,
    nvcc: Compiler | None = None,
    jobs: int = 1,
    csrc: Path = CSRC,
    build: Path = BUILD_FOLDER,
    flags: Sequence[str] = FLAGS,
    torch: bool = True,
) -> list[Usage]:
    """Write the library to a folder; without torch it has the launchers alone."""
    nvcc = nvcc or compiler()
    files = sources(csrc)
    command: tuple[str, ...] = (nvcc.path, "-c", *flags, *_target_flags(targets))
    if jobs > len(files):  # then the targets of a file are compiled side by side, too
        command += (f"--threads={len(targets)}",)
    steps = [_Step(path, command, path.stem, ".o", nvcc.version) for path in files]
    libraries: list[str] = []
    if torch:
        folder = _torch_folder()
        steps.insert(0, _binding(nvcc, folder, csrc / BINDING))
        # libtorch stands for libtorch_cpu and, where torch has one, libtorch_cuda, in
        # which the loader finds the current stream; no other reference leads there.
        libraries = [f"-L{folder / 'lib'}", "-Xlinker=--no-as-needed", "-ltorch"]
        libraries += ["-ltorch_cpu", "-lc10"]
    made = _run_steps(steps, build, jobs)
    output.mkdir(parents=True, exist_ok=True)
    part = output / f"{LIBRARY}.{os.getpid()}"
    link = [nvcc.path, "-shared", "-cudart=static", "--no-device-link"]
    # What is linked statically shall not be seen by, or replaced by, that of others.
    link += ["-Xlinker=--exclude-libs=ALL", *(str(path) for path, _ in made)]
    _run([*link, *libraries, "-o", str(part)])
    part.replace(output / LIBRARY)
    return _usage(steps, made)


def _binding(nvcc: Compiler, torch: Path, source: Path) -> _Step:
    if not source.is_file():
        raise BuildError(f"{source} is missing: pass --without-torch to do without.")
    include = torch / "include"
    folders = (f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}")
    version = nvcc.version + (torch / "version.py").read_text(encoding="utf-8")
    command = (nvcc.path, "-c", *BINDING_FLAGS, *folders)
    return _Step(source, command, source.stem, ".o", version)


def _usage(steps: Sequence[_Step], made: Sequence[tuple[Path, str]]) -> list[Usage]:
    return [
        usage
        for step, (_, said) in zip(steps, made, strict=True)
        for usage in usage_of(step.source.name, said)
    ]


# ---------------------------------------------------------------------------
# The command.


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for; return 0, or 1 with a message."""
    options = _options().parse_args(arguments)
    common = {
        "jobs": options.jobs,
        "csrc": options.csrc,
        "build": options.build,
        "flags": (*FLAGS, *options.flag),
    }
    try:
        nvcc = compiler(options.nvcc)
        targets = options.arch or TARGETS
        if options.cubin_only:
            output = options.output or options.build / "cubin"
            usage = build_cubins(output, targets, nvcc=nvcc, **common)
        else:
            output = options.output or LIBRARY_FOLDER
            usage = build_library(
                output, targets, nvcc=nvcc, torch=not options.without_torch, **common
            )
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(usage))
    print(f"written to {output}")
    bad = [kernel for kernel in usage if kernel.in_memory]
    if bad and options.cubin_only:
        print(f"error: variables in local memory:\n{table(bad)}", file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Builds the CUDA kernels of uqlib_kernels.",
        epilog=f"The library is written to {LIBRARY_FOLDER} unless --output says where "
        "else; UQLIB_CUDA_LIBRARY then has to name it.",
    )
    parser.add_argument(
        "--cubin-only",
        action="store_true",
        help="machine code alone, and what each kernel takes: needs no torch, no GPU; "
        "fails if a kernel keeps variables in local memory",
    )
    parser.add_argument(
        "--without-torch",
        action="store_true",
        help="a library of the C functions of launch.h alone",
    )
    parser.add_argument(
        "--arch",
        action="append",
        metavar="NAME",
        help=f"a target, may be repeated (default: {', '.join(TARGETS)})",
    )
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        help="one more flag for nvcc, as in --flag=-lineinfo; may be repeated",
    )
    parser.add_argument("--nvcc", metavar="PATH", help="the compiler")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for results")
    for name, default, use in (
        ("--build", BUILD_FOLDER, "for what is kept between builds"),
        ("--csrc", CSRC, "of the sources"),
    ):
        parser.add_argument(
            name, type=Path, default=default, metavar="FOLDER", help=use
        )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="compilers at a time (default: one a processor)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
