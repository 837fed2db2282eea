"""What can be said of the kernels where there is nvcc and no GPU, and of ``build.py``.

Every kernel keeps its variables in registers and is made of the instructions that it
was written for; launchers return errors; the library loads into a torch without CUDA.
"""

import ctypes
import itertools
import os
import re
import subprocess
import sys

import pytest

from tests._public import KERNELS, ROOT
from tests.kernels.cuda import _built
from tests.kernels.cuda._built import REAL_TARGETS, build
from tests.kernels.cuda._emulated import CSRC, FLOAT, HALF, Columns, Product
from uqlib_kernels.torch_ops import OPERATIONS

# ---------------------------------------------------------------------------
# Machine code. Of kernels whose mangled name a pattern finds: what must be there. Loads
# past the first cache are LDG.E.NA, from memory that nobody writes LDG...CONSTANT.

WIDE_LOAD = r"LDG\.E(\.NA)?\.128"
WIDE_COPY = r"LDGSTS\.E\.BYPASS\.128"
WIDE_STORE = r"STG\.E\.128"
OPERAND = {
    r"INS_4HalfE": r"HMMA\.16816\.F32$",
    r"INS_8BFloat16E": r"HMMA\.16816\.F32\.BF16",
    r"Ia": r"IMMA\.16832\.S8\.S8",
}
EXPECTED = {
    **{rf"multiply_rows{t}": [WIDE_LOAD, op] for t, op in OPERAND.items()},
    **{rf"8multiplyINS0_6Layout{t}": [WIDE_COPY, op] for t, op in OPERAND.items()},
    r"gemm(9add_parts|10sum_groups)": [WIDE_LOAD],
    r"(quantize|place)_rows": [WIDE_LOAD, WIDE_STORE],
    r"(scale_sums|add_planes)I": [WIDE_LOAD, r"STG\.E\.(64|128)"],
    r"10dequantizeI": [WIDE_LOAD, WIDE_STORE],
    r"expand_codes": [WIDE_LOAD, r"STG\.E\.(64|128)"],
    r"monotone_rows": [WIDE_COPY, WIDE_STORE],
}
# Kernels that little depends on: nothing is asked of them but registers.
PLAIN = ("uqlib9add_parts", "few_classes", "many_classes")
LOCAL_MEMORY = r"(LDL|STL)(\.|$)"


def test_variables_are_in_registers():
    kernels = _built.cubins()
    assert {kernel.target for kernel in kernels} == set(REAL_TARGETS)
    bad = [kernel for kernel in kernels if kernel.in_memory]
    assert not bad, "\n" + build.table(bad)


def test_every_file_of_kernels_is_compiled_for_every_target():
    kernels = _built.cubins()
    compiled = {(kernel.source, kernel.target) for kernel in kernels}
    named = {path.name for path in CSRC.glob("*.cu")} - {"common.cu"}
    assert compiled == {(name, target) for name in named for target in REAL_TARGETS}


@pytest.mark.parametrize("target", REAL_TARGETS)
def test_machine_code(target):
    found = _built.opcodes(target)
    assert set(found) == {
        kernel.kernel for kernel in _built.cubins() if kernel.target == target
    }
    wrong = []
    for kernel, opcodes in found.items():
        needed = [ops for name, ops in EXPECTED.items() if re.search(name, kernel)]
        if not needed and not any(name in kernel for name in PLAIN):
            wrong.append(f"{kernel}: no row of EXPECTED says what it is made of")
        wrong += [
            f"{kernel}: no {opcode} among {sorted(opcodes)}"
            for opcode in itertools.chain(*needed)
            if not any(re.match(opcode, name) for name in opcodes)
        ]
        if any(re.match(LOCAL_MEMORY, name) for name in opcodes):
            wrong.append(f"{kernel}: local memory")
    assert not wrong, "\n".join(wrong)


def test_every_expectation_is_of_a_kernel():
    kernels = [kernel.kernel for kernel in _built.cubins()]
    for name in [*EXPECTED, *PLAIN]:
        assert any(re.search(name, kernel) for kernel in kernels), name


# ---------------------------------------------------------------------------
# Launchers where there is no GPU. Memory is never touched: any address will do.

ADDRESS = ctypes.c_void_p(4096)
NULL = ctypes.c_void_p(None)
COLUMNS = Columns(
    n_in=256, whole=64, inner=64, parts=1, group_columns=64, n_groups=4, n_columns=256
)


def a_product(**changes):
    pointers = ("x", "weight", "scale", "row_scale", "y", "parts")
    sizes = {"n_rows": 3, "n_out": 16, "n_true_out": 16}
    columns = {"n_columns": 256, "group_columns": 64, "n_groups": 4}
    given = {**dict.fromkeys(pointers, ADDRESS), **sizes, **columns, **changes}
    return ctypes.byref(Product(**given))


def launchers(p, x, columns, n_rows=3):
    """Calls of all launchers: valid ones for a product and an address."""
    c = ctypes
    rows, one = c.c_int64(n_rows), c.c_float(1)
    return {
        "uqlib_skinny": (p, HALF, 4, HALF, 1, NULL),
        "uqlib_gemm": (p, HALF, 4, HALF, 1, NULL),
        "uqlib_quantize_rows": (
            *(x, HALF, x, x, x, n_rows, columns, 4, 127, c.c_float(0), NULL),
        ),
        "uqlib_place_rows": (x, HALF, x, HALF, n_rows, columns, NULL),
        "uqlib_add_planes": (x, NULL, x, HALF, n_rows, 16, NULL),
        "uqlib_scale_sums": (
            *(x, x, x, x, NULL, one, one, NULL, x, HALF, n_rows, 16, 16, NULL),
        ),
        "uqlib_dequantize": (p, columns, NULL, 4, x, FLOAT, NULL),
        "uqlib_expand_codes": (p, 4, x, NULL),
        "uqlib_sort_rows": (x, x, 0, rows, 5, x, NULL),
        "uqlib_isotonic_rows": (x, x, x, 0, rows, 5, NULL),
        "uqlib_mass_sets": (*(x, 0, x, x, 0, c.c_double(0), x, rows, 5, NULL),),
    }


@pytest.fixture(scope="module")
def library():
    loaded = ctypes.CDLL(str(_built.library(torch=False)))
    loaded.uqlib_error_string.restype = ctypes.c_char_p
    return loaded


def test_the_table_has_every_launcher():
    declared = re.findall(r"^int (uqlib_\w+)\(", (CSRC / "launch.h").read_text(), re.M)
    known = launchers(a_product(), ADDRESS, ctypes.byref(COLUMNS))
    assert sorted(known) == sorted({*declared} - {"uqlib_n_multiprocessors"})


@pytest.mark.parametrize("name", launchers(None, None, None))
def test_launchers_say_that_there_is_no_gpu(library, name):
    if library.uqlib_n_multiprocessors() > 0:
        pytest.skip("there is a GPU, and the addresses are none of its own")
    given = launchers(a_product(), ADDRESS, ctypes.byref(COLUMNS))[name]
    code = getattr(library, name)(*given)
    # cudaErrorInsufficientDriver, cudaErrorNoDevice, or what a stub of a driver says.
    assert code not in (0, -1)
    assert library.uqlib_error_string(code)


@pytest.mark.parametrize("name", launchers(None, None, None))
def test_launchers_refuse_what_is_missing(library, name):
    given = launchers(a_product(x=None, weight=None), NULL, NULL)[name]
    assert getattr(library, name)(*given) == -1
    assert b"argument" in library.uqlib_error_string(-1)


# ---------------------------------------------------------------------------
# The binding.

INSIDE = """
import sys
import torch
from uqlib_kernels.torch_ops import register
register()
every = [n for n in torch._C._dispatch_get_all_op_names() if "uqlib" in n]
has = torch._C._dispatch_has_kernel_for_dispatch_key
on_cpu = [has(name, "CPU") for name in every]
assert not any(has(name, "CUDA") for name in every)
torch.ops.load_library(sys.argv[1])
assert on_cpu == [has(name, "CPU") for name in every]
print(*(name for name in every if has(name, "CUDA")))
"""


def test_the_library_loads_into_a_torch_without_cuda():
    """It says what operations do for tensors on a GPU, and changes nothing else."""
    pytest.importorskip("torch")
    path = _built.library(torch=True)
    done = subprocess.run(
        [sys.executable, "-c", INSIDE, str(path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(KERNELS.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    named = re.findall(r'm\.impl\("(\w+)"', (CSRC / "binding.cpp").read_text())
    assert set(OPERATIONS) <= set(named)
    # Each is defined in Python, or it would not be among them.
    assert sorted(done.stdout.split()) == sorted(f"uqlib_kernels::{n}" for n in named)


# ---------------------------------------------------------------------------
# The command. nvcc is asked for small files of our own.

SMALL = """
template <int n> __global__ void __launch_bounds__(1024) many(float* x, int k) {
  float a[n];
#pragma unroll
  for (int i = 0; i < n; ++i) a[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < n; ++i) a[i] += a[(7 * i + 3) % n] * x[k + i];
#pragma unroll
  for (int i = 0; i < n; ++i) x[i * 1024 + threadIdx.x] = a[i];
}
template __global__ void many<COUNT>(float*, int);
#include "count.cuh"
"""


@pytest.fixture
def command(tmp_path, capsys):
    """Run ``build.py`` on a folder of sources of ours; its code and what it says."""
    csrc = tmp_path / "csrc"
    csrc.mkdir()

    def run(*arguments):
        folders = {
            "csrc": csrc,
            "build": tmp_path / "build",
            "output": tmp_path / "out",
        }
        given = [f"--{name}={path}" for name, path in folders.items()]
        code = build.main([*given, "--jobs=2", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    run.csrc, run.output, run.build = csrc, tmp_path / "out", tmp_path / "build"
    return run


def write_small(folder, count):
    (folder / "small.cu").write_text(SMALL.replace("COUNT", str(count)))
    (folder / "count.cuh").write_text("// one\n")


def test_a_kernel_that_spills_is_named(command):
    _built.nvcc()
    write_small(command.csrc, 200)
    code, out, err = command("--cubin-only", "--arch=sm_90a")
    assert code == 1
    assert "local memory" in err
    assert re.search(r"small\.cu: .*many.*200.* sm_90a +\d+ +\d+ +[1-9]\d* +0", err)
    assert "sm_80" not in out


def test_a_kernel_that_does_not(command):
    _built.nvcc()
    write_small(command.csrc, 4)
    code, out, err = command("--cubin-only")
    assert (code, err) == (0, "")
    for target in REAL_TARGETS:
        assert re.search(rf"many.* {target} +\d+ +0 +0 +0\n", out)
        assert (command.output / f"small.{target}.cubin").stat().st_size


def test_what_was_compiled_is_used_again(command, monkeypatch):
    compiler = _built.nvcc()
    write_small(command.csrc, 4)
    given = ("--cubin-only", "--arch=sm_90a", f"--nvcc={compiler.path}")
    first = command(*given)
    commands, run = [], build._run
    monkeypatch.setattr(
        build, "_run", lambda given: commands.append(given) or run(given)
    )

    def compiled_again():
        commands.clear()
        assert command(*given)[0] == 0
        return [made for made in commands if "-cubin" in made]

    assert command(*given) == first
    assert not compiled_again()
    (command.csrc / "count.cuh").write_text("// two\n")
    assert compiled_again()
    assert not compiled_again()
    given += ("--flag=-lineinfo",)
    assert compiled_again()
    # What no source gives any more is gone.
    assert len(list(command.build.glob("*.cubin"))) == 1


def test_a_broken_source(command):
    _built.nvcc()
    (command.csrc / "broken.cu").write_text("__global__ void f() { undeclared(); }\n")
    for mode in ("--cubin-only", "--without-torch"):
        code, _, err = command(mode, "--arch=sm_90a")
        assert code == 1
        assert err.startswith("error: ")
        assert "broken.cu" in err
        assert 'identifier "undeclared" is undefined' in err
    assert not list(command.build.glob("*"))


def test_without_nvcc(command, monkeypatch):
    write_small(command.csrc, 4)
    code, _, err = command("--nvcc=/no/such/nvcc")
    assert code == 1
    assert "no nvcc was found at /no/such/nvcc" in err
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, "/no/such/folder")
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    code, _, err = command()
    assert code == 1
    for part in ("CUDA_HOME", "--nvcc", "CUDA toolkit", "developer.nvidia.com"):
        assert part in err


def test_where_nvcc_is_looked_for(monkeypatch, tmp_path):
    for home in ("home", "given"):
        path = tmp_path / home / "bin" / "nvcc"
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\necho of " + home)
        path.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert build.compiler().version == "of home\n"
    given = str(tmp_path / "given" / "bin" / "nvcc")
    assert build.compiler(given) == build.Compiler(given, "of given\n")


def test_other_errors(command, monkeypatch):
    _built.nvcc()
    assert "there are no .cu files" in command()[2]
    write_small(command.csrc, 4)
    assert "not of the form sm_90a" in command("--arch=hopper")[2]
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda name: None)
    assert "torch is not installed" in command()[2]
    monkeypatch.undo()
    pytest.importorskip("torch")
    assert "binding.cpp is missing" in command()[2]


SAID = """\
ptxas info    : 0 bytes gmem, 8 bytes cmem[3]
ptxas info    : Compiling entry function '_Z3onev' for 'sm_80'
ptxas info    : Function properties for _Z3onev
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers, 512 bytes smem, 400 bytes cmem[0]
ptxas info    : Compile time = 3.0 ms
ptxas info    : Compiling entry function '_Z3twov' for 'sm_90a'
ptxas info    : Function properties for _Z3twov
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers
"""


def test_what_ptxas_says_is_understood():
    one, two = build.usage_of("a.cu", SAID)
    assert one == ("a.cu", "sm_80", "_Z3onev", 32, 16, 4, 8, 512)
    assert two == ("a.cu", "sm_90a", "_Z3twov", 255, 0, 0, 0, 0)
    assert one.in_memory
    assert not two.in_memory
    assert not build.usage_of("a.cu", "")
    lines = build.table([one, two]).splitlines()
    assert lines[0].split() == [
        *("kernel", "target", "registers", "stack", "spills", "shared")
    ]
    assert lines[1].split()[-5:] == ["sm_80", "32", "16", "12", "512"]
