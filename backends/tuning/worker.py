"""The process that builds and times kernels for a tuner: whatever a kernel does to it costs the tuner one trial.

Requests and answers are JSON, one a line, on stdin and stdout. A request that takes longer than its `limit` (seconds)
kills the process, from inside, so that no orphan computes on; it ends when stdin does.

    {"do": "build", "slot": s, "region": text, "candidate": text, "limit": 10}  ->  {}
    {"do": "time", "first": slot, "second": slot, "seconds": 0.1, "limit": 10}  ->  {"first", "second", "ratio"}
    {"do": "drop", "slot": s}                                                   ->  {}

An answer {"error": message} is one to that request alone.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from dataclasses import asdict
from typing import Any

from ..target import Target
from .measure import Built, build, compare, same_results


class Worker:
    """Answers requests. `target` is what kernels are built for."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.slots: dict[str, Built] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "build":
                self.slots[request["slot"]] = build(
                    request["region"], request["candidate"], self.target, self.target.num_cores
                )
            case "time":
                first, second = (self.slots[request[which]] for which in ("first", "second"))
                if first is not second and not same_results(first, second):
                    return {"error": "computes something else than the first guess"}
                return asdict(compare(first, second, request["seconds"]))
            case "drop":
                self.slots.pop(request["slot"], None)
        return {}


def main() -> None:
    """Serves the requests of the process that started this one; the first line is the target, pickled, in hex."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what code prints must not look like an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tuner, which then closes stdin
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    worker = Worker(pickle.loads(bytes.fromhex(sys.stdin.readline())))
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request.get("limit", 60))
        try:
            answer = worker.answer(request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
