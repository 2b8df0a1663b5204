"""The HTML page: one file that holds the facts and loads nothing."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import optc
import pytest
from optc import models
from optc.backends.report import kernels_of, page
from small_models import Cli

MODEL = Path(optc.__file__).parent / "models" / "fashion_cnn.onnx"


class Page(HTMLParser):
    """Counts what is loaded from elsewhere, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        self.loads += [tag] * (tag in ("script", "link", "iframe"))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.fixture
def artifact(cli: Cli, tmp_path: Path) -> Path:
    path, data = tmp_path / "f.optc", tmp_path / "samples.npz"
    np.savez(data, image=np.concatenate([s["image"] for s in models.get("fashion-cnn").samples("calibration", 40)]))
    assert cli(MODEL, "--int8", "--calib", data, "--accuracy-budget", "10%", "-o", path, "--quiet")[0] == 0
    return path


def test_the_page_holds_the_facts_and_loads_nothing(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    code, text, err = cli("report", artifact, "-o", out, "--shape", "image=1x1x28x28")
    assert code == 0, err
    assert str(out) in text
    html = out.read_text()
    found = Page(html)
    assert not found.loads
    assert not found.open
    assert "url(" not in html
    assert "@import" not in html
    manifest = optc.load(artifact).manifest
    told = manifest["quantization"]
    for fact in (
        *manifest["steps"],
        *manifest["kernels"].values(),
        told["layers"][0]["layer"],
        "weights",
        "optc.ConvInteger",
    ):
        assert fact in found.cells
    assert "on this machine" in html
    assert "Accuracy budget of 10.00%" in html


def test_a_profile_puts_rooflines_beside_the_times(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    code, _, err = cli("report", artifact, "-o", out, "--shape", "image=1x1x28x28", "--profile")
    assert code == 0, err
    found = Page(out.read_text())
    assert not found.open
    assert {"rate", "bound by", "of the ceiling"} <= set(found.cells)
    assert any(cell in ("int8", "f32", "L2") for cell in found.cells)
    assert any("ceilings: " in cell and "GFLOP/s" in cell for cell in found.cells)


def test_without_sizes_of_free_dims_there_are_no_times(artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.html"
    optc.load(artifact).report(out)
    assert "on this machine" not in out.read_text()
    optc.load(artifact).report(out, {"image": np.zeros((1, 1, 28, 28), np.float32)})
    assert "on this machine" in out.read_text()


def test_names_are_escaped(artifact: Path) -> None:
    manifest = optc.load(artifact).manifest
    hostile = manifest | {"summary": manifest["summary"] | {"model": "<script>x</script>", "notes": ["<b>"]}}
    assert not Page(page(hostile, {"code": 1})).loads


def test_kernels_are_found_by_step() -> None:
    kernels = {"k1_Conv_y": "b", "k0_Conv_y": "a", "k10_MatMul_long_na": "c"}
    assert kernels_of(["Conv y", "view", "Conv y", "MatMul long.name"], kernels) == ["a", "", "b", "c"]
