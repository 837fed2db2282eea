"""Results of the script for a GPU: goals from times, and the page that is written."""

import json
import sys

import pytest

from tests._public import ROOT

pytest.importorskip("torch", reason="torch is not installed")
sys.path.append(str(ROOT / "tests" / "benchmarks"))

import _gpu_goals as goals
import _gpu_report as report
import _gpu_stages as stages
import gpu

# ---------------------------------------------------------------------------
# Goals.

LARGE = [8192, 8192]


def linear(layer, seconds, shape=LARGE, rows=1, **parts):
    record = {"table": "linear", "shape": list(shape), "rows": rows, "layer": layer}
    return record | {"seconds": [seconds] * 3, "right": True} | parts


def copy_of(bytes_a_second):
    record = {"table": "ceilings", "name": "copy", "unit": "bytes/s"}
    return record | {"work": bytes_a_second, "seconds": [1.0]}


def results_of(records):
    found = goals.outcomes(records)
    return {o.goal.text: (o.result, o.figure) for o in found if o.result != "not run"}


def test_without_times_no_goal_was_run():
    assert results_of([]) == {}
    assert results_of([linear(goals.W4, 1.0)]) == {}
    assert results_of([linear(goals.BF16, 1.0)]) == {}
    failed = {k: v for k, v in linear(goals.W4, 1.0).items() if k != "seconds"}
    assert results_of([linear(goals.BF16, 1.0), failed | {"failed": "no"}]) == {}


@pytest.mark.parametrize(("time", "result"), [(1.0, "met"), (1.1, "missed")])
def test_a_goal_is_met_or_missed(time, result):
    records = [linear(goals.W4, time), linear(goals.BF16, 2.5)]
    found = results_of(records)
    assert found == {
        "W4 bfloat16, 8192 x 8192, 1 row: 2.5 x bf16 F.linear": (result, 2.5 / time)
    }


def test_wrong_results_meet_nothing():
    records = [
        linear(goals.W4, 1.0, right=False, bytes=100),
        linear(goals.BF16, 9.0),
        copy_of(100),
    ]
    assert {result for result, _ in results_of(records).values()} == {"missed"}


def test_the_faster_of_two_layers_counts():
    records = [
        linear(goals.W2, 2.0),
        linear(goals.W2A8, 1.0),
        linear(goals.BF16, 3.5),
    ]
    assert list(results_of(records).values()) == [("met", 3.5)]
    records[1] |= {"right": False}
    assert list(results_of(records).values()) == [("missed", 1.75)]


def test_share_of_the_bandwidth():
    records = [linear(goals.W4, 2.0, bytes=140), copy_of(100)]
    found = results_of(records)
    assert [result for result, _ in found.values()] == ["met", "missed"]
    assert {figure for _, figure in found.values()} == {0.7}
    assert results_of(records[:1]) == {}


def test_rows_beside_the_cpu():
    record = {"table": "rows", "name": "isotonic_rows", "seconds": [0.01]}
    record |= {"size": "10,000,000 x 19, float32"}
    assert results_of([record]) == {}
    record |= {"cpu_seconds": [0.3], "right": True}
    (found,) = results_of([record]).values()
    assert found == ("met", pytest.approx(30))
    (found,) = results_of([record | {"right": False}]).values()
    assert found == ("missed", 0)
    assert results_of([record | {"size": "1,000 x 19, float32"}]) == {}


def test_every_goal_has_a_case_that_is_timed():
    import _gpu_layers
    import _gpu_linear

    records = [copy_of(1e9)]
    for shape in _gpu_linear.SHAPES:
        for rows in _gpu_linear.ROWS:
            for layer in _gpu_layers.LAYERS:
                if layer.takes(rows):
                    records.append(linear(layer.name, 1.0, shape, rows, bytes=10))
    record = {"table": "rows", "name": "isotonic_rows", "right": True}
    record |= {"size": "10,000,000 x 19, float32"}
    records.append(record | {"seconds": [1.0], "cpu_seconds": [1.0]})
    assert "not run" not in {outcome.result for outcome in goals.outcomes(records)}
    names = {layer.name for layer in _gpu_layers.LAYERS}
    assert set(goals.PEERS) < names


def test_goals_come_first():
    from _gpu_worker import case_names

    full = case_names(False, False)
    assert full[0] == "ceilings"
    assert len(set(full)) == len(full)
    needed = {
        f"linear {n} {k} {m}" for n, k in ((8192, 8192), (4096, 4096)) for m in (1, 512)
    }
    others = full.index("rows")
    assert needed <= set(full[:others])
    assert set(case_names(True, False)) < set(full)


# ---------------------------------------------------------------------------
# The page.


def example():
    records = [
        copy_of(3e12),
        {"table": "ceilings", "name": "matmul", "work": 1, "failed": "`x` |_*\\"},
        linear(goals.W4, 1e-5, bytes=2e7, error=1e-3),
        linear(goals.BF16, 3e-5, bytes=1e8, error=2e-3),
        linear(goals.TINYGEMM, 2e-5, bytes=2e7, error=9.0, right=False),
        {"table": "linear", "shape": LARGE, "rows": 1, "layer": goals.W2}
        | {"failed": "RuntimeError: `a` *b_ <c>"},
        {"table": "rows", "name": "isotonic_rows", "size": "1e7 x 19"}
        | {"seconds": [1e-3], "cpu_seconds": [0.5], "right": True, "bytes": 1.5e9},
        {"table": "rows", "name": "sort_rows", "size": "1e7 x 19", "failed": "no_"},
        {"table": "model", "name": "quantized", "size": "s", "seconds": [1e-4] * 12},
        {"table": "model", "name": "float32", "size": "s", "failed": "no *"},
        {"table": "failures", "case": "linear 1 2 3", "failed": "CUDA error: `_`"},
    ]
    made = [
        stages.Stage("build", True, "2 kernels", 9.0, table=[["a_<b>", *"12345"]]),
        stages.Stage("check kernels", False, "1 failed", 2.0, ["FAILED a::b_[c|d]"]),
        stages.Stage("memcheck", None, "compute-sanitizer was not found"),
    ]
    return {
        "date": "2026-01-02",
        "dry": False,
        "machine": {"GPU": "NVIDIA H100 80GB HBM3", "uqlib": "abc_"},
        "stages": [stage.as_dict() for stage in made],
        "records": records,
    }


def test_the_page_renders():
    core = pytest.importorskip("docutils.core")
    # Anything that is not clean is an error here.
    settings = {"halt_level": 2, "report_level": 2, "input_encoding": "unicode"}
    text = report.as_rst(example())
    page = core.publish_string(text, writer="html", settings_overrides=settings)
    page = page.decode()
    for part in ("9.0e+00: wrong", "CUDA error: `_`", "a_&lt;b&gt;", "500", "67%"):
        assert part in page


def test_the_summary_is_short():
    results = example()
    lines = report.summary(results)
    assert len(lines) <= 60
    assert any("FAILED" in line for line in lines)
    assert lines[-1].startswith("goals: ")
    results["records"] += results["records"][-1:] * 200
    assert len(report.summary(results)) <= 60


def test_results_of_several_runs_are_merged(tmp_path):
    first, second = example(), example()
    second["stages"] = [stages.Stage("check kernels", True, "9 passed").as_dict()]
    second["records"] = [linear(goals.W4, 2e-5, bytes=2e7, error=1e-3)]
    paths = []
    for k, part in enumerate((first, second)):
        path = tmp_path / f"{k}.json"
        path.write_text(json.dumps(part))
        paths.append(str(path))
    merged = gpu.merged([first, second])
    assert [stage["ok"] for stage in merged["stages"]] == [True, True, None]
    assert len(merged["records"]) == len(first["records"])
    assert goals.time_of(merged["records"], layer=goals.W4) == 2e-5
    arguments = ["--report", *paths, "--output", str(tmp_path / "out")]
    assert gpu.main(arguments) == 0
    (page,) = (tmp_path / "out").glob("*.rst")
    assert page.name == "2026-01-02-nvidia-h100-80gb-hbm3.rst"
