"""What runs in a process of its own: kernels interpreted, or compiled for a GPU.

Triton looks at the environment when it is imported, and whatever else uses it in this
process must not find it changed; hence the processes.
"""

import importlib.util
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest


def worker(environment):
    """A pool of one fresh process with an environment; skips without triton."""
    for library in ("torch", "triton"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"needs {library}")
    return ProcessPoolExecutor(
        1,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(environment,),
    )


def _begin(environment):
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.update(environment)


def call(pool, function, *arguments, **options):
    """Call a function in the process of a pool, with copies of its arguments."""
    given = pickle.dumps((function, arguments, options))
    return pickle.loads(pool.submit(_call, given).result())


def _call(given):
    function, arguments, options = pickle.loads(given)
    return pickle.dumps(function(*arguments, **options))


def compiled(module, kernel, types, constants, capability):
    """The PTX of a kernel; arguments that are not named are integers of 32 bits."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    found = getattr(importlib.import_module(module), kernel)
    signature = {name: types.get(name, "i32") for name in found.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    made = triton.compile(
        ASTSource(fn=found, signature=signature, constexprs=constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": 1, "enable_fp_fusion": False},
    )
    assert made.asm["cubin"]
    return made.asm["ptx"]
