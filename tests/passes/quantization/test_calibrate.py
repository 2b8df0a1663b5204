"""One run over the data: right statistics, bounded memory, and what was collected survives whatever goes wrong."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import graph_of
from optc.compiler.errors import CalibrationError, UsageError
from optc.compiler.onnx.importer import import_model
from optc.models import get
from optc.passes.quantization import calibrate, checkpoint
from optc.passes.quantization.calibrate import collect
from optc.passes.quantization.checkpoint import state_path
from optc.passes.quantization.execute import Runner
from optc.passes.quantization.histogram import Histogram
from optc.passes.quantization.observers import range_of
from optc.passes.quantization.statistics import ChannelMean, ChannelRange, Gram, Wanted
from optc.passes.quantization.synthetic import Synthetic

CHAIN = """graph g(%x: f32[N, 16]) {
  %w: f32[16, 16] = const random(1)
  %a = MatMul(%x, %w)
  %b = Relu(%a)
  %c = MatMul(%b, %w)
  %d = Tanh(%c)
  return %d
}"""
VALUES = ("x", "a", "b", "c", "d")


def sample(index: int, rows: int = 4) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(index).standard_normal((rows, 16)).astype(np.float32)}


def wanted() -> Wanted:
    return {name: [Histogram(), ChannelRange(), ChannelMean(), Gram()] for name in VALUES}


def states(statistics: Wanted) -> dict[str, np.ndarray]:
    return {
        f"{name}.{i}.{field}": np.array(array)
        for name, several in statistics.items()
        for i, statistic in enumerate(several)
        for field, array in statistic.state().items()
    }


def assert_equal(a: Wanted, b: Wanted) -> None:
    left, right = states(a), states(b)
    assert list(left) == list(right)
    for name, array in left.items():
        np.testing.assert_array_equal(array, right[name], err_msg=name)


def collected(count: int = 12, **options: object) -> Wanted:
    statistics = wanted()
    done = collect(graph_of(CHAIN), statistics, [sample(i) for i in range(count)], **options)  # type: ignore[arg-type]
    assert done.samples == count
    return statistics


def test_statistics_are_those_of_all_samples() -> None:
    graph, statistics = graph_of(CHAIN), wanted()
    samples = [sample(i, rows=1 + i % 3) for i in range(20)]
    done = collect(graph, statistics, samples)
    assert (done.samples, done.synthetic, done.statistics) == (20, False, statistics)
    runner = Runner(graph, VALUES)
    results = [runner.run(s) for s in samples]
    for name in VALUES:
        array = np.concatenate([r[name] for r in results]).astype(np.float64)
        histogram, ranges, mean, gram = statistics[name]
        assert isinstance(histogram, Histogram)
        assert (histogram.minimum, histogram.maximum, histogram.count) == (array.min(), array.max(), array.size)
        assert isinstance(ranges, ChannelRange)
        np.testing.assert_array_equal(ranges.absolute_maximum, np.abs(array).max(0))
        np.testing.assert_allclose(ranges.absolute_mean, np.abs(array).mean(0), rtol=1e-6)
        assert isinstance(mean, ChannelMean)
        np.testing.assert_allclose(mean.mean, array.mean(0), rtol=1e-5, atol=1e-7)
        assert isinstance(gram, Gram)
        np.testing.assert_allclose(gram.mean, array.T @ array / len(array), rtol=1e-4, atol=1e-5)


def test_threads_change_nothing() -> None:
    assert_equal(collected(threads=1), collected(threads=3))


def test_a_small_budget_takes_more_runs_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, ...]] = []

    class Noted(Runner):
        def __init__(self, graph: object, outputs: list[str], **options: int) -> None:
            made.append(tuple(outputs))
            super().__init__(graph, outputs, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(calibrate, "Runner", Noted)
    plenty = collected()
    assert made == [VALUES]
    assert_equal(collected(budget=1024 + 2 * 256, threads=2), plenty)
    assert made[1:] == [("x", "a"), ("b", "c"), ("d",)]


def test_larger_samples_later_are_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, statistics = graph_of(CHAIN), wanted()
    runs = calibrate._Runs(graph, {v.name: v for v in graph.values() if v.name in VALUES}, 1024 + 5 * 256, 1)
    data = [sample(0, 4), sample(1, 40), sample(2, 4)]
    assert [len(list(results)) for results in runs.over(iter(data))] == [1, 5, 5]
    collect(graph, statistics, data, budget=1024 + 5 * 256)
    reference = wanted()
    collect(graph, reference, data)
    assert_equal(statistics, reference)


def test_values_of_shapes_only_known_later() -> None:
    graph = graph_of("graph g(%x: f32[N, 16]) {\n  %i = NonZero(%x)\n  %f = Cast(%i) {to=f32}\n  return %f\n}")
    histogram = Histogram()
    collect(graph, {"f": [histogram]}, [sample(0), sample(1)], budget=16)
    assert histogram.maximum == 15


def test_an_unknown_value_is_named_before_any_data_is_read() -> None:
    with pytest.raises(UsageError, match="nowhere"):
        collect(graph_of(CHAIN), {"nowhere": [Histogram()]}, [])


def test_synthetic_samples_are_marked() -> None:
    graph = graph_of(CHAIN)
    assert collect(graph, {"a": [Histogram()]}, Synthetic(graph)).synthetic


def test_progress_is_told() -> None:
    said: list[tuple[str, float]] = []
    collect(graph_of(CHAIN), {"a": [Histogram()]}, [sample(i) for i in range(4)], progress=lambda *a: said.append(a))
    assert [share for _, share in said] == [0.25, 0.5, 0.75, 1.0]
    collect(graph_of(CHAIN), {"a": [Histogram()]}, iter([sample(0)]), progress=lambda *a: said.append(a))
    assert said[-1] == ("calibrating: sample 1", 0.0)


@pytest.mark.parametrize("masked", ["-3.4028235e38", "-1e30"])
def test_an_attention_mask_widens_no_range(masked: str) -> None:
    graph = graph_of(f"""graph g(%x: f32[N, 16], %keep: bool[N, 16]) {{
  %away: f32[] = const {masked}
  %scores = Where(%keep, %x, %away)
  %p = Softmax(%scores) {{axis=-1}}
  return %p
}}""")
    data = [sample(i) | {"keep": np.arange(16)[None].repeat(4, 0) < 9} for i in range(3)]
    statistics = {"scores": [Histogram()], "p": [Histogram()]}
    collect(graph, statistics, data)
    scores, p = statistics["scores"][0], statistics["p"][0]
    assert scores.huge == 3 * 4 * 7
    assert -6 < range_of(scores, "minmax").low < 0 < range_of(scores, "minmax").high < 6
    assert 0 <= range_of(p, "minmax").low <= range_of(p, "minmax").high <= 1


# --- what goes wrong ---------------------------------------------------------------------------------------------


def failing(after: int, error: BaseException) -> Iterator[dict[str, np.ndarray]]:
    yield from (sample(i) for i in range(after))
    raise error


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [OSError("disk on fire"), KeyboardInterrupt()])
def test_what_was_collected_is_kept_and_gone_on_from(tmp_path: Path, error: BaseException, threads: int) -> None:
    state, graph = tmp_path / "deep" / "state.npz", graph_of(CHAIN)
    with pytest.raises((CalibrationError, KeyboardInterrupt)):
        collect(graph, wanted(), failing(7, error), state=state, key="data", threads=threads)
    read: list[int] = []

    def rest() -> Iterator[dict[str, np.ndarray]]:
        for index in range(12):
            read.append(index)
            yield sample(index)

    statistics = wanted()
    done = collect(graph, statistics, rest(), state=state, key="data", threads=threads)
    assert done.samples == 12
    assert_equal(statistics, collected(12))
    assert not list(tmp_path.rglob("*.part"))


def test_the_statistics_hold_the_samples_before_the_error() -> None:
    statistics = wanted()
    with pytest.raises(CalibrationError, match="sample 7: the data failed: OSError: disk on fire"):
        collect(graph_of(CHAIN), statistics, failing(7, OSError("disk on fire")), threads=2)
    assert_equal(statistics, collected(7))


def test_a_finished_state_reads_no_data(tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    first = collected(state=state, key="data")
    again = wanted()
    done = collect(graph_of(CHAIN), again, failing(0, AssertionError("read")), state=state, key="data")
    assert done.samples == 12
    assert_equal(again, first)


def test_a_state_of_something_else_is_not_believed(tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    collected(state=state, key="data")
    other_model = graph_of(CHAIN.replace("Relu", "Sigmoid"))
    for graph, asked, key in (
        (graph_of(CHAIN), wanted(), "other data"),
        (other_model, wanted(), "data"),
        (graph_of(CHAIN), {"a": [Histogram()]}, "data"),
        (graph_of(CHAIN), {name: [Histogram(), ChannelRange(0), ChannelMean(), Gram()] for name in VALUES}, "data"),
    ):
        collected(state=state, key="data")
        assert collect(graph, asked, [sample(0)], state=state, key=key).samples == 1


def test_states_in_a_folder_by_model_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_KEPT", 3)
    graph, other = graph_of(CHAIN), graph_of(CHAIN.replace("random(1)", "random(2)"))
    paths = [state_path(tmp_path, g, key) for g in (graph, other) for key in ("a", "b")]
    assert len(set(paths)) == 4
    assert state_path(tmp_path, graph_of(CHAIN), "a") == paths[0]
    for age, path in enumerate(paths):
        path.touch()
        os.utime(path, (age, age))
    state_path(tmp_path, graph, "c")
    assert sorted(tmp_path.iterdir()) == sorted(paths[2:])


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut short"])
def test_a_damaged_state_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    state = tmp_path / "state.npz"
    state.write_bytes(content)
    assert_equal(collected(state=state, key="data"), collected())


def test_a_state_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CalibrationError, match="cannot write the state"):
        collected(state=tmp_path / "file" / "state.npz")


def test_it_is_saved_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "_SHARE", 0)
    state = tmp_path / "state.npz"
    sizes: list[bool] = []

    def data() -> Iterator[dict[str, np.ndarray]]:
        for index in range(4):
            sizes.append(state.exists())
            yield sample(index)

    collect(graph_of(CHAIN), wanted(), data(), state=state)
    assert sizes == [False, True, True, True]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_value_that_is_nan_names_sample_and_value(threads: int) -> None:
    graph = graph_of("graph g(%x: f32[N, 16]) {\n  %l = Log(%x)\n  %y = Relu(%l)\n  return %y\n}")
    good = {"x": np.abs(sample(0)["x"]) + 1}
    statistics = {"l": [Histogram()], "x": [Histogram()]}
    with pytest.raises(CalibrationError, match="sample 2: value l: not a number"):
        collect(graph, statistics, [good, good, sample(1), good], threads=threads)
    assert statistics["x"][0].updates == statistics["l"][0].updates == 2


def test_a_run_that_fails_names_the_sample() -> None:
    graph = graph_of("""graph g(%x: f32[N, 16], %y: f32[M, 16]) {
  %s = Add(%x, %y)
  return %s
}""")
    fits, not_so = ({"x": sample(0)["x"], "y": sample(0, rows)["x"]} for rows in (4, 3))
    with pytest.raises(CalibrationError, match="sample 1: ONNX Runtime cannot run"):
        collect(graph, {"s": [Histogram()]}, [fits, not_so])


def test_bad_samples_are_named() -> None:
    with pytest.raises(CalibrationError, match="sample 1: input x is of another shape"):
        collect(graph_of(CHAIN), wanted(), [sample(0), {"x": np.zeros((1, 3), np.float32)}])
    with pytest.raises(CalibrationError, match="no samples"):
        collect(graph_of(CHAIN), wanted(), [])


# --- a real model ------------------------------------------------------------------------------------------------


def test_fashion_cnn() -> None:
    model = get("fashion-cnn").path()
    graph = import_model(model)
    images = np.load(model.with_name("fashion_test_64.npz"))["image"]
    layers = [n for n in graph.nodes if n.op in ("Conv", "Gemm")]
    statistics: dict[str, list[Histogram]] = {n.operand(0).name: [Histogram()] for n in layers}
    done = collect(graph, statistics, [image[None] for image in images])
    assert done.samples == 64
    expected = Runner(graph, list(statistics)).run({graph.inputs[0].name: images})
    for name, (histogram,) in statistics.items():
        assert histogram.minimum == pytest.approx(float(expected[name].min()), rel=1e-4, abs=1e-5)
        assert histogram.maximum == pytest.approx(float(expected[name].max()), rel=1e-4)
        low, high = range_of(histogram, "mse")
        assert histogram.minimum <= low <= high <= histogram.maximum


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    """100 samples of 3 MB in values take no more than 20 did."""
    graph = graph_of("""graph g(%x: f32[N, 1024]) {
  %a = Relu(%x)
  %b = Neg(%a)
  %c = Exp(%b)
  return %c
}""")
    data = ({"x": np.full((256, 1024), i, np.float32)} for i in range(120))
    statistics = {name: [Histogram(), ChannelMean()] for name in "abc"}

    resident: list[int] = []

    def noted() -> Iterator[dict[str, np.ndarray]]:
        for each in data:
            resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize())
            yield each

    collect(graph, statistics, noted(), threads=2)
    assert max(resident[20:]) - max(resident[:20]) < 8 << 20
