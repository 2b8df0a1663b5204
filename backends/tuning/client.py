"""A worker process as the tuner sees it: started when needed, started again when it died."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from types import TracebackType
from typing import Any

from ...compiler.errors import OptcError
from ..target import Target

WORKER = ("-m", f"{__package__}.worker")
"""What Python is called with."""
START_SECONDS = 120.0
"""What a new worker may take beyond a request's limit: it imports TVM first."""


class TrialFailed(OptcError):
    """A request the worker could not do, or died of."""


class Client:
    """Asks one worker. Not for several threads; use it as a context, which ends the worker."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._process: subprocess.Popen[str] | None = None
        self._fresh = True
        self.generation = 0
        """How many workers were started: what an earlier one built is gone."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.close()

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """The answer to a request. Raises TrialFailed where it took longer than `limit` seconds, where the worker died,
        or where it answers with an error."""
        self.send(request, limit)
        return self.receive()

    def send(self, request: dict[str, Any], limit: float) -> None:
        """The first half of `ask`: the worker begins."""
        self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        line = json.dumps(request | {"limit": limit + START_SECONDS * self._fresh})
        self._fresh = False
        with contextlib.suppress(BrokenPipeError):  # it died; receive() tells how
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """The second half of `ask`: waits for the answer."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TrialFailed(f"the worker {_died(self._process.wait())}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TrialFailed(answer["error"])
        return answer

    @property
    def pid(self) -> int | None:
        """The worker's process id, if it was started."""
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        """Whether there is a worker that still runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts a worker unless one runs."""
        if self.alive:
            return
        self.close()
        self.generation += 1
        self._fresh = True
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)  # the package is where this process found it
        self._process = subprocess.Popen(
            [sys.executable, *WORKER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(pickle.dumps(self._target).hex() + "\n")

    def close(self) -> None:
        """Ends the worker, whatever it is doing."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()
        self._process = None


def _died(code: int) -> str:
    if code == -signal.SIGALRM:
        return "took too long"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
