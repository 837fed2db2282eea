"""Finding and loading the library of kernels, and what is said where it cannot be."""

import os
import shutil
import subprocess
import sys
import threading
import warnings

import pytest

from tests._public import ROOT
from uqlib_kernels import cuda
from uqlib_kernels.cuda import KernelUnavailableError, _library


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """Nothing is loaded, and no library is where it is looked for."""
    monkeypatch.setattr(_library, "_loaded", [])
    monkeypatch.setattr(_library, "_DEFAULT", tmp_path / "none.so")
    monkeypatch.delenv(_library.VARIABLE, raising=False)
    return monkeypatch


@pytest.fixture
def gpu(fresh):
    """As if there was a GPU; what loads a library only notes its path."""
    torch = pytest.importorskip("torch")
    paths = []
    fresh.setattr(torch.cuda, "is_available", lambda: True)
    fresh.setattr(torch.ops, "load_library", paths.append)
    return paths


@pytest.fixture
def library(tmp_path):
    """A library of nothing."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++, to make a library")
    path = tmp_path / "empty.so"
    command = [compiler, "-shared", "-x", "c++", "/dev/null", "-o", path]
    subprocess.run(command, check=True)
    return path


def refused(match):
    """What all functions say where kernels cannot be loaded."""
    with pytest.raises(KernelUnavailableError, match=match) as raised:
        cuda.load()
    assert not cuda.is_available()
    assert cuda.why_unavailable() == str(raised.value)
    return str(raised.value)


def in_another_process(program):
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "kernels")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---------------------------------------------------------------------------
# What is missing.


def test_the_module_does_not_import_torch():
    program = "import sys, uqlib_kernels.cuda; print('torch' in sys.modules)"
    assert in_another_process(program) == "False"


def test_without_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from uqlib_kernels import cuda\n"
        "assert not cuda.is_available()\n"
        "print(cuda.why_unavailable())"
    )
    said = in_another_process(program)
    assert "need torch" in said
    assert "install torch 2.11" in said


@pytest.mark.parametrize(
    ("version", "remedy"), [(None, "install a build for CUDA"), ("13.0", "driver")]
)
def test_without_a_gpu(fresh, version, remedy):
    torch = pytest.importorskip("torch")

    def is_available():
        warnings.warn("the driver is too old", UserWarning, stacklevel=1)
        return False

    fresh.setattr(torch.cuda, "is_available", is_available)
    fresh.setattr(torch.version, "cuda", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert remedy in refused("sees no GPU of CUDA")


def test_without_the_library(gpu):
    said = refused("is not built")
    for part in ("python kernels/csrc/build.py", "UQLIB_CUDA_LIBRARY", "none.so"):
        assert part in said
    assert not gpu


def test_a_name_of_no_file(fresh, gpu, tmp_path):
    named = str(tmp_path / "elsewhere.so")
    fresh.setenv("UQLIB_CUDA_LIBRARY", named)
    assert named in refused("is no file.*kernels/csrc/build.py")


def test_a_file_that_is_no_library(fresh, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "text.so"
    path.write_text("not a library")
    fresh.setattr(torch.cuda, "is_available", lambda: True)
    fresh.setenv("UQLIB_CUDA_LIBRARY", str(path))
    assert str(path) in refused("could not be loaded.*build it anew")


# ---------------------------------------------------------------------------
# Where it is found, and that it is loaded once.


def test_where_it_is_looked_for(fresh, tmp_path):
    assert _library.library_path() is None
    default, named = tmp_path / "none.so", tmp_path / "named.so"
    default.touch()
    assert _library.library_path() == default
    fresh.setenv("UQLIB_CUDA_LIBRARY", str(named))
    assert _library.library_path() is None  # not the default: it was not asked for
    named.touch()
    assert _library.library_path() == named
    fresh.setenv("UQLIB_CUDA_LIBRARY", "")
    assert _library.library_path() == default


def test_a_library_of_the_default_place_is_where_the_build_puts_it():
    place = ROOT / "kernels/uqlib_kernels/cuda/_lib/libuqlib_kernels_cuda.so"
    assert place == _library._DEFAULT


def test_it_is_loaded_once_after_the_operations(fresh, gpu, library):
    fresh.setenv("UQLIB_CUDA_LIBRARY", str(library))
    threads = [threading.Thread(target=cuda.load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gpu == [str(library)]
    assert cuda.is_available()
    assert cuda.why_unavailable() is None
    assert gpu == [str(library)]
    for name in ("uqlib_kernels._torch_ops", "uqlib_kernels._torch_row_ops"):
        assert name in sys.modules


def test_a_failure_is_not_remembered(fresh, gpu, library):
    refused("is not built")
    fresh.setattr(_library, "_DEFAULT", library)
    cuda.load()
    assert gpu == [str(library)]


def test_a_library_is_really_loaded(fresh, library):
    torch = pytest.importorskip("torch")
    fresh.setattr(torch.cuda, "is_available", lambda: True)
    fresh.setenv("UQLIB_CUDA_LIBRARY", str(library))
    assert cuda.why_unavailable() is None
    assert str(library) in torch.ops.loaded_libraries
