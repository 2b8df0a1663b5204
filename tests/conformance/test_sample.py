"""A sample of the node tests of onnx, one an op, and its light models, through the public path.

The whole sweep is `python -m optc.tools.conformance`; docs/conformance.md holds its result.
"""

from __future__ import annotations

import pytest
from optc.tools.conformance import Case, check, light_cases, node_cases, optc_engine

# Ops that this version does not compile; docs/conformance.md names what each of their tests says.
_NOT_COMPILED = {"ImageDecoder", "OptionalGetElement", "OptionalHasElement", "TfIdfVectorizer"}


def sample() -> list[Case]:
    """The first test of every op, and every twelfth of the expanded functions, from the fifth on."""
    firsts: dict[str, Case] = {}
    expanded = []
    for case in node_cases():
        if case.excluded or case.op in _NOT_COMPILED:
            continue
        if "_expanded" in case.name:
            expanded.append(case)
        else:
            firsts.setdefault(case.op, case)
    return [*firsts.values(), *expanded[4::12]]


@pytest.mark.parametrize("case", sample(), ids=lambda case: case.name)
def test_node(case: Case) -> None:
    check(case, optc_engine)


@pytest.mark.parametrize("case", light_cases(), ids=lambda case: case.name)
def test_light_model(case: Case) -> None:
    check(case, optc_engine)
