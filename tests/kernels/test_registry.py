"""Which instructions are chosen, on machines of every kind."""

from types import SimpleNamespace

import pytest

from uqlib_kernels import _amx_gemm, _amx_permission, registry

VNNI = {f"avx512{part}" for part in ("f", "bw", "cd", "dq", "vl", "vnni", "vbmi")}
AMX = {"amx-tile", "amx-int8"}
BASIC = {"sse2", "avx", "avx2", "fma"}


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this process run on a machine of certain features."""

    def become(
        features=BASIC | VNNI | AMX,
        *,
        permission=True,
        right=True,
        processor="x86_64",
        forced=None,
        cpu_name=None,
        cpu_features=None,
        avx=1,
        no_jit=0,
    ):
        # Features of which LLVM says that they are absent are listed, too.
        listed = {name: name in features for name in BASIC | VNNI | AMX}
        fake = SimpleNamespace(get_host_cpu_features=lambda: listed)
        settings = SimpleNamespace(
            CPU_NAME=cpu_name,
            CPU_FEATURES=cpu_features,
            ENABLE_AVX=avx,
            DISABLE_JIT=no_jit,
        )
        monkeypatch.setattr(registry, "binding", fake)
        monkeypatch.setattr(registry, "_CONFIG", settings)
        monkeypatch.setattr(registry.platform, "machine", lambda: processor)
        monkeypatch.setattr(registry, "request_tiles", lambda: permission)
        monkeypatch.setattr(_amx_gemm, "amx_works", lambda: right)
        monkeypatch.delenv("UQLIB_ISA", raising=False)
        if forced is not None:
            monkeypatch.setenv("UQLIB_ISA", forced)
        registry.isa.cache_clear()
        registry.available_isas.cache_clear()

    yield become
    monkeypatch.undo()
    registry.isa.cache_clear()
    registry.available_isas.cache_clear()


ALL = ("amx", "vnni", "portable")


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        ({}, ALL),
        ({"features": BASIC | VNNI}, ALL[1:]),
        ({"features": BASIC}, ALL[2:]),
        ({"features": BASIC | AMX}, ALL[2:]),  # tiles alone are of no use
        ({"features": BASIC | VNNI | {"amx-tile"}}, ALL[1:]),
        ({"permission": False}, ALL[1:]),
        ({"right": False}, ALL[1:]),
        ({"processor": "AMD64"}, ALL),
        ({"processor": "aarch64"}, ALL[2:]),
        ({"processor": "arm64"}, ALL[2:]),
        ({"avx": 0}, ALL[2:]),
        ({"no_jit": 1}, ALL[2:]),
        ({"cpu_name": "generic", "cpu_features": ""}, ALL[2:]),
        ({"cpu_name": "generic"}, ALL[2:]),
        # A name does not say which features Numba takes to be there.
        ({"cpu_name": "sapphirerapids"}, ALL[2:]),
        ({"cpu_features": "+avx2,+fma"}, ALL[2:]),
        ({"cpu_features": ",".join("+" + name for name in sorted(VNNI))}, ALL[1:]),
        ({"cpu_features": ",".join("+" + name for name in sorted(VNNI | AMX))}, ALL),
        (
            {"cpu_features": ",".join(["+" + name for name in VNNI] + ["-avx512f"])},
            ALL[2:],
        ),
        ({"cpu_features": ",".join("-" + name for name in VNNI)}, ALL[2:]),
        # What is told but not there would end the process.
        (
            {
                "features": BASIC,
                "cpu_features": ",".join("+" + name for name in VNNI),
            },
            ALL[2:],
        ),
    ],
)
def test_levels(machine, given, levels):
    machine(**given)
    assert registry.available_isas() == levels
    assert registry.isa() == levels[0]
    for level in ALL:
        machine(**given, forced=level)
        if level in levels:
            assert registry.isa() == level
        else:
            with pytest.raises(ValueError, match=f"UQLIB_ISA='{level}' asks for"):
                registry.isa()


@pytest.mark.parametrize("missing", sorted(VNNI))
def test_all_parts_of_vectors_are_needed(machine, missing):
    machine(features=(BASIC | VNNI | AMX) - {missing})
    assert registry.available_isas() == ("portable",)


def test_unknown_level(machine):
    machine(forced="avx2")
    with pytest.raises(ValueError, match="UQLIB_ISA='avx2' must be one of"):
        registry.isa()


def test_empty_variable_forces_nothing(machine):
    machine(forced="")
    assert registry.isa() == "amx"


@pytest.mark.parametrize("level", ["vnni", "portable"])
def test_a_forced_lower_level_touches_no_tiles(machine, monkeypatch, level):
    machine(forced=level)

    def fail():
        raise AssertionError("tiles were tried")

    monkeypatch.setattr(_amx_gemm, "amx_works", fail)
    monkeypatch.setattr(registry, "request_tiles", fail)
    assert registry.isa() == level


def test_is_found_once(machine, monkeypatch):
    machine(forced="portable")
    assert registry.isa() == "portable"
    monkeypatch.setenv("UQLIB_ISA", "vnni")
    assert registry.isa() == "portable"


def test_systems_that_llvm_does_not_know(machine, monkeypatch):
    machine()

    def unknown():
        raise RuntimeError("no features on this platform")

    monkeypatch.setattr(registry.binding, "get_host_cpu_features", unknown)
    assert registry.available_isas() == ("portable",)


def test_generic_targets_have_no_features(machine):
    machine(cpu_name="generic", cpu_features="")
    assert registry.target_features() == frozenset()
    machine(avx=0)
    assert registry.target_features() == {"sse2", "fma"}


# ---------------------------------------------------------------------------
# Permission to use tiles.


@pytest.fixture
def fresh_permission():
    _amx_permission.request_tiles.cache_clear()
    yield
    _amx_permission.request_tiles.cache_clear()


@pytest.mark.parametrize(
    ("system", "processor"),
    [("darwin", "x86_64"), ("win32", "AMD64"), ("linux", "aarch64")],
)
@pytest.mark.usefixtures("fresh_permission")
def test_only_linux_on_x86_64_is_asked(monkeypatch, system, processor):
    monkeypatch.setattr(_amx_permission.sys, "platform", system)
    monkeypatch.setattr(_amx_permission.platform, "machine", lambda: processor)
    monkeypatch.setattr(_amx_permission.ctypes, "CDLL", None)
    assert _amx_permission.request_tiles() is False


@pytest.mark.parametrize(
    ("answers", "mask", "granted"),
    [
        ((0, 0), 1 << 18, True),
        ((0, 0), 0b111, False),
        ((-1,), 0, False),
        ((0, -1), 1 << 18, False),
    ],
)
@pytest.mark.usefixtures("fresh_permission")
def test_what_linux_answers(monkeypatch, answers, mask, granted):
    asked = []

    def syscall(number, code, argument):
        asked.append((number.value, code.value))
        if code.value == 0x1022:
            argument._obj.value = mask
        return answers[len(asked) - 1]

    monkeypatch.setattr(_amx_permission.sys, "platform", "linux")
    monkeypatch.setattr(_amx_permission.platform, "machine", lambda: "x86_64")
    library = SimpleNamespace(syscall=syscall)
    library.syscall = _Function(syscall)
    monkeypatch.setattr(_amx_permission.ctypes, "CDLL", lambda *_, **__: library)
    assert _amx_permission.request_tiles() is granted
    assert asked == [(158, 0x1023), (158, 0x1022)][: len(answers)]
    assert _amx_permission.request_tiles() is granted  # asked once
    assert len(asked) == len(answers)


class _Function:
    """A function of a library: its type of result may be set."""

    restype = None

    def __init__(self, function):
        self._function = function

    def __call__(self, *arguments):
        return self._function(*arguments)


@pytest.mark.usefixtures("fresh_permission")
def test_this_system_answers():
    # It must not end the process, whatever the answer is.
    assert _amx_permission.request_tiles() in (True, False)
