"""One emulated process a target for all tests; without compiler or QEMU they are skipped, or fail if OPTC_TESTS=all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from optc.backends.target import Target
from optc.tools.emulator import Emulator, missing

Emulate = Callable[[str], Emulator]


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulate]:
    """`emulator("arm:cortex-a76")`: the process that runs code of this target."""
    started: dict[str, Emulator] = {}

    def start(spec: str) -> Emulator:
        lacking = missing(Target.parse(spec))
        if lacking:
            (pytest.fail if os.environ.get("OPTC_TESTS") == "all" else pytest.skip)(lacking)
        if spec not in started or not started[spec].alive:
            started[spec] = Emulator(spec)
        return started[spec]

    yield start
    for process in started.values():
        process.close()
