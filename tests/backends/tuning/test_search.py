"""The order in which a search measures, on made-up times."""

from __future__ import annotations

from optc.backends.tuning.database import Score
from optc.backends.tuning.search import Search, nearest, transferred
from optc.backends.tuning.tasks import Task

from .support import made_up


def grid() -> Task:
    """Plans of two numbers, the cost model's order far from the truth."""
    names = tuple(f"conv P(rows={r}, strip={s})" for r in (1, 2, 4, 8, 16) for s in (1, 2, 4, 8, 16))
    return Task("text", "S(n=1)", names)


def run(search: Search, ratio: dict[str, float], trials: int) -> list[str]:
    order = []
    for _ in range(trials):
        candidate = search.next()
        if candidate is None:
            break
        order.append(candidate)
        search.tried(candidate, 1.0 if candidate == search.first else ratio[candidate], 1e-3)
    return order


def test_the_first_guess_comes_first_then_what_was_best_for_a_like_shape() -> None:
    task = made_up(plans=6)
    search = Search(task, 1)
    search.start = "conv P(rows=9)"
    assert run(search, dict.fromkeys(task.candidates, 1.0), 2) == [task.candidates[0], "conv P(rows=8)"]


def test_neighbours_of_the_best_are_found_in_few_trials() -> None:
    task = grid()

    def cost(name: str) -> float:
        rows, strip = (int(part.split("=")[1].rstrip(")")) for part in name.split(", "))
        return 0.5 + 0.1 * (abs(rows - 8) + abs(strip - 8)) / 8

    ratio = {c: cost(c) for c in task.candidates}
    search = Search(task, 1)
    run(search, ratio, 14)
    assert search.best[0] == "conv P(rows=8, strip=8)"


def test_every_candidate_is_measured_once_in_the_end() -> None:
    task = grid()
    order = run(Search(task, 1), dict.fromkeys(task.candidates, 1.0), 100)
    assert sorted(order) == sorted(task.candidates)


def test_a_gain_below_one_percent_is_none() -> None:
    task = made_up()
    search = Search(task, 1)
    run(search, dict.fromkeys(task.candidates, 0.995), 4)
    assert search.best == (task.candidates[0], 1.0)


def test_hope_fades_and_frequent_regions_matter_more() -> None:
    task = grid()
    once, often = Search(task, 1), Search(task, 10)
    gains = []
    for _ in range(5):
        for search in (once, often):
            run(search, dict.fromkeys(task.candidates, 1.0), 1)
        gains.append(once.gain())
    assert often.gain() > 5 * once.gain()
    assert gains == sorted(gains, reverse=True)


def test_a_region_whose_first_guess_fails_is_left_alone() -> None:
    task = made_up()
    search = Search(task, 1)
    search.tried(task.candidates[0], None)
    assert search.next() is None
    assert search.gain() == 0


def test_the_next_run_gives_a_first_guess_that_failed_another_chance() -> None:
    task = made_up()
    search = Search(task, 1)
    search.learn([Score(task.candidates[0], task.candidates[0], 0.0, None)])
    assert search.next() == task.candidates[0]


def test_a_failed_candidate_is_never_the_best() -> None:
    task = made_up()
    search = Search(task, 1)
    search.tried(task.candidates[0], 1.0, 1e-3)
    search.tried(task.candidates[1], None)
    assert search.best[0] == task.candidates[0]


def test_transfer_takes_the_nearest_shape() -> None:
    task = made_up(spec="S(n=100)")
    known = {"a": ("S(n=90)", "near"), "b": ("S(n=2)", "far"), task.key: ("S(n=100)", "own")}
    assert transferred(task, known) == "near"


def test_nearest_takes_the_first_of_equals() -> None:
    assert nearest("conv P(rows=3)", ["conv P(rows=7)", "conv P(rows=1)"]) == "conv P(rows=7)"
