"""What int8 costs in accuracy, optc beside the peers: `python -m optc.tools.accuracy --markdown docs/accuracy.md`.

Each zoo model that has a metric is quantized by all systems with the same calibration samples, which are disjoint from
the test items, and judged on the same items. What is reported is the difference from the float model on ONNX Runtime,
paired item by item, with its 95% interval. The scores of each model and system are kept in a file of their own, so that
a run that was stopped goes on where it was, and only what changed is judged again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .. import models
from ..backends.runtime.cache import digest as digest_of_parts
from ..compiler.driver import compile
from ..compiler.errors import OptcError, UsageError
from ..models.download import cache_dir
from ..models.metrics import Metric, Scores
from ..models.zoo import ZooModel
from .peers import PEERS, Run, Sample
from .peers_int8 import INT8_PEERS, digest, package_versions

FLOAT, OURS = "fp32", "optc"
SYSTEMS = (FLOAT, OURS, *INT8_PEERS, "openvino-bf16")
"""The float model on ONNX Runtime, which all others are compared with; optc's int8; the peers."""

BUDGETS = {"silero-vad": 0.0, "ppocr-cls": 0.003}
"""--accuracy-budget for the models whose names begin so: all in 8 bits they lose more than the bar allows."""

CALIBRATION = 300
"""Calibration samples, as many as NNCF takes by itself."""


@dataclass(frozen=True)
class Judged:
    """One system's scores on one model, by the metric's name; `failure` says why there are none."""

    scores: Mapping[str, Scores]
    seconds: float
    failure: str = ""


def budget_of(name: str) -> float | None:
    """The accuracy budget that a model is compiled with."""
    return next((budget for start, budget in BUDGETS.items() if name.startswith(start)), None)


# --- judging -----------------------------------------------------------------------------------------------------


def judges(model: ZooModel) -> list[Metric]:
    """The model's metrics, then its agreement with the float model."""
    return [*model.metrics, *((model.agreement,) if model.agreement else ())]


def runner(system: str, model: ZooModel, samples: Sequence[Sample]) -> Run:
    """The system's int8 (or float) model on one thread. Raises OptcError, or what the peer raises."""
    path = model.path()
    if system == FLOAT:
        return PEERS["onnxruntime"](path, 1)
    if system == OURS:
        ours = compile(path, int8=True, calibration=list(samples), accuracy_budget=budget_of(model.name), threads=1)
        return lambda sample: ours.run(dict(sample))
    if system in INT8_PEERS:
        peer = INT8_PEERS[system]
        return peer.run(peer.quantized(path, samples), 1)
    if system in PEERS:
        return PEERS[system](path, 1)
    raise UsageError("unknown system", expected=" or ".join(SYSTEMS), found=system)


def judge(system: str, model: ZooModel, samples: Sequence[Sample], items: int | None) -> Judged:
    """All the model's metrics of one system. A system that cannot run the model gives a result that says so."""
    started = time.perf_counter()
    try:
        run = runner(system, model, samples)
        scores = {metric.name: metric.scores(run, items) for metric in judges(model)}
        failure = next((f"{name}: not a number" for name, s in scores.items() if not np.isfinite(s).all()), "")
    except models.DownloadError:
        raise
    except Exception as error:  # whatever an engine raises on a model is a result of this comparison
        scores, failure = {}, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Judged({} if failure else scores, time.perf_counter() - started, failure)


# --- what was judged before --------------------------------------------------------------------------------------


@cache
def own_code() -> str:
    """Changes with the sources that shape optc's artifacts."""
    rooms = [Path(__file__).parent.parent / room for room in ("compiler", "passes", "backends")]
    return digest_of_parts(sorted(p for room in rooms for p in room.rglob("*") if p.suffix in (".py", ".c", ".h")))


def key_of(system: str, model: ZooModel, samples: Sequence[Sample], items: int | None) -> str:
    """Equal keys, equal scores: model, samples, items, how they are judged, and the code that makes the answers."""
    if system == OURS:
        made_by = [own_code(), str(budget_of(model.name))]
    else:
        made_by = package_versions("openvino", "nncf") if "openvino" in system else package_versions("onnxruntime")
    room = sys.modules[model.make_inputs.__module__].__file__
    assert room is not None, "models are defined in files"
    judged_by = digest_of_parts([Path(room), Path(models.__file__).with_name("metrics.py")])
    return digest(model.path(), samples, system, str(items), judged_by, *made_by)


def stored(file: Path, key: str) -> Judged | None:
    """What `store` wrote to the file under this key; a failure is tried again."""
    if not file.exists():
        return None
    content = json.loads(file.read_text())
    if content["key"] != key or content["failure"]:
        return None
    scores = {name: np.array(values, np.float64) for name, values in content["scores"].items()}
    return Judged(scores, content["seconds"], content["failure"])


def store(file: Path, key: str, judged: Judged) -> None:
    """Writes the scores, whole or not at all."""
    scores = {name: values.tolist() for name, values in judged.scores.items()}
    content = {"key": key, "seconds": judged.seconds, "failure": judged.failure, "scores": scores}
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".part")
    draft.write_text(json.dumps(content))
    draft.replace(file)


def default_folder() -> Path:
    """Where scores are kept unless told otherwise: beside the zoo in the user's cache."""
    return cache_dir().parent / "accuracy"


def known(folder: Path) -> dict[str, dict[str, bool]]:
    """{model: {system: does every metric of it hold?}}, as last judged; empty if nothing was."""
    file = folder / "known.json"
    found: dict[str, dict[str, bool]] = json.loads(file.read_text()) if file.exists() else {}
    return found


def add_known(folder: Path, news: Mapping[str, Mapping[str, bool]]) -> None:
    """Adds to what `known` reads."""
    merged = known(folder)
    for model, systems in news.items():
        merged[model] = {**merged.get(model, {}), **systems}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "known.part"
    draft.write_text(json.dumps(merged, indent=1))
    draft.replace(folder / "known.json")


def judge_model(
    name: str, systems: Sequence[str], items: int | None, calibration: int, folder: Path
) -> dict[str, Judged]:
    """All systems on one model; what the folder holds already is not judged again."""
    model = models.get(name)
    samples = list(model.samples("calibration", calibration))
    found = {}
    for system in systems:
        file, key = folder / name / f"{system}.json", key_of(system, model, samples, items)
        judged = stored(file, key)
        if judged is None:
            judged = judge(system, model, samples, items)
            store(file, key, judged)
        found[system] = judged
        print(
            f"{name:<24} {system:<24} {judged.seconds:6.1f} s  {judged.failure or _figures(judged, model)}", flush=True
        )
    return found


def _figures(judged: Judged, model: ZooModel) -> str:
    return ", ".join(f"{m.name} {100 * m.value(judged.scores[m.name]):.2f}" for m in judges(model))


# --- the command -------------------------------------------------------------------------------------------------


def judged_models() -> list[str]:
    """Zoo models with right answers to judge by; random weights have no accuracy."""
    return [name for name in models.names() if models.get(name).metrics]


def main(argv: Sequence[str] | None = None) -> int:
    from .accuracy_report import holding, markdown, rows

    parser = argparse.ArgumentParser(prog="python -m optc.tools.accuracy", description=__doc__)
    parser.add_argument("--models", nargs="+", default=judged_models(), metavar="NAME", help="zoo names")
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS, metavar="SYSTEM", help=str(SYSTEMS))
    parser.add_argument("--items", type=int, help="test items of each metric at most")
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="calibration samples")
    parser.add_argument("--jobs", type=int, default=1, help="models judged at once, a process with one thread each")
    parser.add_argument("--work", type=Path, default=default_folder(), help="where scores are kept")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args(argv)
    found: dict[str, dict[str, Judged]] = {}
    # The processes are spawned anew: engines keep threads, which do not survive a fork.
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        tasks = {
            pool.submit(judge_model, name, args.systems, args.items, args.calibration, args.work): name
            for name in args.models
        }
        for task in as_completed(tasks):
            try:
                found[tasks[task]] = task.result()
            except (OptcError, BrokenProcessPool) as error:
                print(f"{tasks[task]}: {error}", file=sys.stderr, flush=True)
    table = rows({name: found[name] for name in args.models if name in found})
    add_known(args.work, holding(table))
    command = "python -m optc.tools.accuracy " + " ".join(sys.argv[1:] if argv is None else argv)
    text = markdown(table, command.strip(), args.calibration)
    print(text)
    if args.markdown:
        args.markdown.write_text(text)
    return 0 if len(found) == len(args.models) and all(row.passes for row in table) else 5


if __name__ == "__main__":
    sys.exit(main())
