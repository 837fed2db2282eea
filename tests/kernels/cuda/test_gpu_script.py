"""The script that builds, checks and times on a GPU: what of it needs none."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests._public import ROOT

pytest.importorskip("torch", reason="torch is not installed")
BENCHMARKS = ROOT / "tests" / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.py"
sys.path.append(str(BENCHMARKS))

import _gpu_clock  # noqa: E402
import _gpu_goals as goals  # noqa: E402
import _gpu_process as process  # noqa: E402
import _gpu_stages as stages  # noqa: E402
import gpu  # noqa: E402

# ---------------------------------------------------------------------------
# Rotation and clock.


@pytest.mark.parametrize("n_bytes", [1, 1000, 8 << 20, 134 << 20, 10 << 30])
@pytest.mark.parametrize("cache", [50 << 20, 60 << 20])
def test_copies_are_three_caches_large(n_bytes, cache):
    copies = _gpu_clock.n_copies(n_bytes, cache)
    assert copies * n_bytes >= 3 * cache
    assert copies == _gpu_clock.LEAST_COPIES or (copies - 1) * n_bytes < 3 * cache


def test_what_fails_leaves_the_others_their_times():
    def bad():
        raise RuntimeError("no such\nkernel")

    made = []
    passes = {"good": [lambda: made.append(1)] * 3, "bad": [bad]}
    seconds, failed = _gpu_clock.interleaved(_gpu_clock.HostClock(), passes, 4)
    assert list(seconds) == ["good"]
    assert len(seconds["good"]) == 4
    assert failed == {"bad": "RuntimeError: no such"}
    assert len(made) == 1 + 4 * 3


def test_slow_peers_are_timed_less_often():
    class Slow(_gpu_clock.HostClock):
        def seconds(self, replay, n_calls):
            return 0.125 * n_calls

    passes = {"slow": [int] * 10, "fast": [int]}
    seconds, _ = _gpu_clock.interleaved(Slow(), passes, 25)
    assert len(seconds["slow"]) == _gpu_clock.LEAST_ROUNDS
    assert len(seconds["fast"]) == 16
    assert set(seconds["slow"]) == {0.125}


def test_tenths_hold_eight_of_ten():
    times = [float(k) for k in range(20)]
    assert _gpu_clock.tenths(times) == (2.0, 17.0)
    assert _gpu_clock.tenths([3.0]) == (3.0, 3.0)


# ---------------------------------------------------------------------------
# Time, and commands that fail.


def test_a_budget_runs_out():
    now = [0.0]
    budget = process.Budget(100.0, lambda: now[0])
    assert budget.left() == 100
    assert budget.part(0.5, 30) == 30
    now[0] = 95.0
    assert budget.left(reserve=8) == 0
    assert budget.part(0.5) == 2.5
    now[0] = 200.0
    assert budget.left() == 0


def test_commands_are_ended_at_their_limit():
    code = "import time; print('begun', flush=True); time.sleep(60)"
    done = process.ran([sys.executable, "-c", code], 1.5)
    assert done.status is None
    assert "begun" in done.text
    assert done.seconds < 30


def test_a_command_that_is_not_there():
    done = process.ran(["/no/such/command"], 5.0)
    assert done.status == 127
    assert "/no/such/command" in done.text


WORKER = """
import json, sys, time
lines, cases, without = open(sys.argv[1], "a"), *map(json.loads, sys.argv[2:])
def write(line):
    print(json.dumps(line), file=lines, flush=True)
for case in cases:
    write({"begin": case})
    if case == "crash":
        print("out of luck", flush=True)
        raise SystemExit(3)
    if case == "hang":
        time.sleep(60)
    if case.startswith("layers"):
        for layer in ("good", "bad", "worse"):
            if layer not in without:
                write({"doing": layer})
                if layer != "good":
                    raise SystemExit(3)
    write({"table": "t", "name": case})
    write({"end": case})
    if case == "last":
        break
"""


def watched(tmp_path, cases, seconds=60.0, stall=1.5, code=WORKER):
    script = tmp_path / "worker.py"
    script.write_text(code)

    def worker(lines, left, without):
        lists = json.dumps(left), json.dumps(without)
        return [sys.executable, str(script), str(lines), *lists]

    return process.watched(worker, cases, process.Budget(seconds), 0.0, stall)


def names_of(found):
    return [r["name"] for r in found.records if r["table"] == "t"]


def test_a_worker_that_breaks_is_replaced(tmp_path):
    found = watched(tmp_path, ["a", "crash", "b", "hang", "c"])
    assert names_of(found) == ["a", "b", "c"]
    assert found.left == []
    first, second = found.failures
    assert first["case"] == "crash"
    assert "ended with 3: out of luck" in first["failed"]
    assert second["case"] == "hang"
    assert "nothing was written" in second["failed"]


def test_a_layer_that_breaks_is_left_out(tmp_path):
    found = watched(tmp_path, ["a", "layers 1", "layers 2", "b"])
    assert names_of(found) == ["a", "layers 1", "layers 2", "b"]
    assert [f["case"] for f in found.failures] == ["layers 1, bad", "layers 1, worse"]


def test_what_there_was_no_time_for_is_left(tmp_path):
    found = watched(tmp_path, ["a", "last", "b"])
    assert (names_of(found), found.left, found.failures) == (["a", "last"], ["b"], [])
    found = watched(tmp_path, ["a", "hang", "b"], seconds=1.5, stall=60.0)
    assert (names_of(found), found.left) == (["a"], ["hang", "b"])
    found = watched(tmp_path, ["a"], seconds=0.0)
    assert (found.records, found.left) == ([], ["a"])


def test_a_worker_that_never_begins(tmp_path):
    found = watched(tmp_path, ["a", "b"], code="raise SystemExit('no torch')")
    (failure,) = found.failures
    assert failure["case"] == "worker"
    assert "no torch" in failure["failed"]
    assert found.left == ["a", "b"]
    stage = gpu.summed(found, 2)
    assert stage.ok is False


# ---------------------------------------------------------------------------
# What other commands say.


def test_targets():
    assert stages.target_of((9, 0)) == "sm_90a"
    assert stages.target_of((8, 0)) == "sm_80"
    assert stages.target_of((12, 0)) == "sm_120"


def test_the_table_of_kernels_is_that_of_the_build():
    import importlib.util

    spec = importlib.util.spec_from_file_location("uqlib_build", stages.BUILD)
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    usage = [
        build.Usage("skinny.cu", "sm_90a", "_Z3onei", 40, 0, 0, 0, 0),
        build.Usage("gemm.cu", "sm_90a", "_Z3twoIfLi4EEvi", 255, 16, 8, 4, 1024),
    ]
    found = stages.kernels_of(f"{build.table(usage)}\nwritten to /somewhere 1 2 3 4\n")
    assert [row[1:] for row in found] == [
        ["sm_90a", "40", "0", "0", "0"],
        ["sm_90a", "255", "16", "12", "1024"],
    ]
    assert found[0][0].startswith("skinny.cu: ")


def test_builds_that_fail_say_why(monkeypatch):
    def build_with(done):
        monkeypatch.setattr(stages, "ran", lambda *_: done)
        return stages.build(process.Budget(60.0), "sm_90a", False)

    failed = build_with(process.Done(1, "compiling\nerror: no nvcc was found\n", 1.0))
    assert failed.ok is False
    assert "no nvcc was found" in failed.text
    assert build_with(process.Done(None, "", 9.0)).ok is False
    good = build_with(process.Done(0, "skinny.cu: a<4>  sm_90a  64  0  12  0\n", 1.0))
    assert good.ok is True
    assert good.text == "1 kernels for sm_90a, 1 of them spill"


SUMMARY = "========= ERROR SUMMARY: {} errors\n"


@pytest.mark.parametrize(
    ("text", "status", "ok"),
    [
        ("sanitized: 9 calls\n" + SUMMARY.format(0), 0, True),
        ("sanitized: 9 calls\n" + SUMMARY.format(3), 0, False),
        (SUMMARY.format(0), 1, False),
        ("Device not supported\n", 1, None),
        ("", None, None),
        (
            "sanitized: 9 calls\n========= RACECHECK SUMMARY: 0 hazards displayed"
            " (0 errors, 0 warnings)\n",
            0,
            True,
        ),
        (
            "sanitized: 9 calls\n========= RACECHECK SUMMARY: 2 hazards displayed"
            " (2 errors, 0 warnings)\n",
            0,
            False,
        ),
        ("sanitized: 9 calls\n" + SUMMARY.format(10), 0, False),
    ],
)
def test_what_the_sanitizer_found(text, status, ok):
    assert stages.sanitized("memcheck", process.Done(status, text, 1.0)).ok is ok


JUNIT = (
    '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}"/>'
    "</testsuites>"
)


@pytest.mark.parametrize(
    ("counts", "status", "ok"),
    [
        ((5, 0, 0, 1), 0, True),
        ((5, 1, 0, 0), 1, False),
        ((5, 0, 1, 4), 1, False),
        ((5, 0, 0, 5), 0, None),
        ((5, 0, 0, 0), 3, False),
    ],
)
def test_what_tests_came_to(tmp_path, counts, status, ok):
    path = tmp_path / "report.xml"
    path.write_text(JUNIT.format(*counts))
    done = process.Done(status, "FAILED a::b - no\n", 1.0)
    stage = stages.checked("check kernels", done, stages.counts_of(path))
    assert stage.ok is ok
    assert stage.lines == ["FAILED a::b - no"]


def test_tests_without_a_report_failed(tmp_path):
    counts = stages.counts_of(tmp_path / "none.xml")
    done = process.Done(4, "No module named pytest\n", 1.0)
    stage = stages.checked("check kernels", done, counts)
    assert stage.ok is False
    assert "No module named pytest" in stage.text
    stopped = stages.checked("check kernels", process.Done(None, "", 1.0), {})
    assert stopped.ok is False
    text = "a.py::one PASSED\na.py::two FAILED\na.py::three"
    stopped = stages.checked("check kernels", process.Done(None, text, 60.0), {})
    assert stopped.ok is False
    assert stopped.text == "stopped after 60 s: 1 passed, 1 failed, at a.py::three"
    assert stopped.lines == ["a.py::two FAILED"]


def test_tests_that_need_a_gpu_are_found():
    assert stages.OWN_TESTS
    names = {path.name for path in stages.files_of_gpu()}
    assert "test_torch_network.py" in names
    assert not names & {path.name for path in stages.OWN_TESTS}


# ---------------------------------------------------------------------------
# The whole.


def run_with(monkeypatch, tmp_path, **functions):
    """Run the script with stages of the test's own; return status and results."""
    defaults = {
        "no_device": lambda: "",
        "_device": lambda: {"GPU": "Test"},
        "_capability": lambda: (9, 0),
        "build": lambda *_: stages.Stage("build", True, "built"),
        "check": lambda *_: [stages.Stage("check kernels", True, "1 passed")],
        "sanitize": lambda *_: [stages.Stage("memcheck", None, "not found")],
        "timed": lambda *_: stages.Stage("time", True, "all"),
    }
    for name, function in (defaults | functions).items():
        monkeypatch.setattr(gpu, name, function)
    code = gpu.main(["--output", str(tmp_path), "--seconds", "60"])
    (page,) = tmp_path.glob("*.json")
    found = {s["name"]: s for s in json.loads(page.read_text())["stages"]}
    return code, found


def test_all_is_well(monkeypatch, tmp_path, capsys):
    code, found = run_with(monkeypatch, tmp_path)
    assert code == 0
    assert list(found) == ["build", "check kernels", "memcheck", "time"]
    assert "goals: " in capsys.readouterr().out


def test_a_stage_that_raises_is_written_down(monkeypatch, tmp_path):
    def bad(*_):
        raise RuntimeError("of all things")

    code, found = run_with(monkeypatch, tmp_path, sanitize=bad)
    assert code == 1
    assert found["sanitize"]["ok"] is False
    assert "of all things" in found["sanitize"]["text"]
    assert found["time"]["ok"] is True


def test_without_a_build_nothing_else_is_run(monkeypatch, tmp_path):
    code, found = run_with(
        monkeypatch, tmp_path, build=lambda *_: stages.Stage("build", False, "no nvcc")
    )
    assert code == 1
    assert [stage["ok"] for stage in found.values()] == [False, None, None, None]


def test_tests_that_all_were_skipped_are_no_success(monkeypatch, tmp_path):
    skipped = [stages.Stage("check kernels", None, "0 passed, 9 skipped")]
    code, _ = run_with(monkeypatch, tmp_path, check=lambda *_: skipped)
    assert code == 1


def test_late_stages_are_left_out_when_time_is_out(monkeypatch, tmp_path):
    budgets = []

    class Short(process.Budget):
        def __init__(self, total):
            budgets.append(self)
            self.now = 0.0
            super().__init__(total, lambda: self.now)

    def slow(*_):
        budgets[0].now = 55.0
        return [stages.Stage("check kernels", True, "1 passed")]

    monkeypatch.setattr(gpu, "Budget", Short)
    code, found = run_with(monkeypatch, tmp_path, check=slow)
    assert code == 0
    assert found["time"]["text"] == "no time was left"


def test_without_a_gpu_it_says_so():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == gpu.NO_DEVICE
    assert "needs a machine with a GPU" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_unknown_stages_are_refused(capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--stages", "build,deploy"])
    assert "build,check,sanitize,time" in capsys.readouterr().err


def test_a_dry_run_measures_everything(tmp_path):
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(SCRIPT), "--dry-run"]
    command += ["--stages", "build,sanitize,time"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    records = json.loads(path.read_text())["records"]
    missing = {
        (record.get("layer") or record.get("name")): record["failed"]
        for record in records
        if "failed" in record
    }
    # What of libraries there is on a GPU alone.
    assert set(missing) <= {goals.TINYGEMM, goals.TWIN}, missing
    layers = {r["layer"] for r in records if r["table"] == "linear" and r.get("right")}
    assert {goals.W4, goals.W2A8, goals.BF16, goals.INT_MM} <= layers
    assert {r["name"] for r in records if r["table"] == "rows" and r["right"]} == {
        "isotonic_rows",
        "sort_rows",
        "mass_sets",
    }
    assert len({r["name"] for r in records if r["table"] == "model"}) == 4


def test_a_graph_is_made_of_a_pass():
    """The clock of a GPU asks torch for what it needs, and for nothing else."""
    torch = pytest.importorskip("torch")
    names = ("CUDAGraph", "graph", "Stream", "Event", "synchronize", "current_stream")
    assert all(hasattr(torch.cuda, name) for name in names)
    spoken = []

    class Fake(SimpleNamespace):
        def __enter__(self):
            spoken.append("capture")

        def __exit__(self, *_):
            spoken.append("captured")

        def wait_stream(self, other): ...

        def replay(self):
            spoken.append("replay")

        def record(self):
            spoken.append("event")

        def elapsed_time(self, other):
            return 5.0

    clock = _gpu_clock.GraphClock.__new__(_gpu_clock.GraphClock)
    fake = SimpleNamespace(
        Stream=Fake,
        Event=lambda **_: Fake(),
        CUDAGraph=Fake,
        graph=lambda graph: Fake(),
        stream=lambda stream: Fake(),
        current_stream=Fake,
        synchronize=lambda: None,
        _sleep=lambda cycles: spoken.append("sleep"),
    )
    clock._torch = SimpleNamespace(cuda=fake)
    calls = [lambda k=k: spoken.append(k) for k in range(4)]
    replay = clock.prepared(calls)
    warm = ["capture", 0, 1, 2, "captured"]
    assert spoken == [*warm, "capture", 0, 1, 2, 3, "captured", "replay"]
    del spoken[:]
    assert clock.seconds(replay, 4) == 5e-3
    assert spoken == ["sleep", "event", "replay", "event"]
