"""Who waits, and for how long: the promise of fairness, in simulated work."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.echo_engine import costs
from tremplin.registry.passport import BatchCosts
from tremplin.serve.batch import WINDOW, BatchLimits
from tremplin.serve.call import Priority
from tremplin.serve.costs import CostModel
from tremplin.serve.lanes import BULK_SHARE, PATIENCE, Lane, Lanes
from tremplin.serve.work import Row, Tokens, Work

MINILM = BatchCosts(batch_s=8e-4, row_s=1e-4, token_s=8e-5, pair_s=5e-8)


def work_of(lengths: list[int], priority: Priority = Priority.INTERACTIVE, deadline: float | None = None) -> Work:
    loop = asyncio.new_event_loop()
    loop.close()
    return Work([Tokens([1] * n) for n in lengths], sum(lengths), priority, loop, time.perf_counter(), deadline)


def simulate(
    arrivals: list[tuple[float, int]], model: CostModel, limits: BatchLimits
) -> tuple[float, list[tuple[float, float]]]:
    """Serve rows that arrive at (seconds, length); return the longest batch, and (waited, found) of each row."""
    lane = Lane(Priority.INTERACTIVE)
    now = longest = 0.0
    waits: list[tuple[float, float]] = []
    began: dict[int, tuple[float, float]] = {}
    queue = sorted(arrivals)
    while queue or len(lane):
        if not len(lane):
            now = max(now, queue[0][0])
        while queue and queue[0][0] <= now:
            _, length = queue.pop(0)
            row = Row(work_of([length]), 0, length, model.row_s(length))
            began[id(row)] = (lane.served_s, lane.waiting_s)
            lane.add([row])
            row.work.tokens = id(row)
        lane.fill_window()
        rows, _ = lane.cut(model, limits)
        for row in rows:
            served, found = began[row.work.tokens]
            waits.append((lane.served_s - served, found))
        seconds = model.batch_s(len(rows), max(row.length for row in rows))
        lane.account(seconds)
        now += seconds
        longest = max(longest, seconds)
    assert len(waits) == len(arrivals)
    return longest, waits


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    load=st.sampled_from((0.5, 0.9, 1.5, 4.0)),
    mix=st.sampled_from(("short", "heavy", "two")),
)
def test_nobody_is_overtaken_by_more_than_the_stated_multiple(seed: int, load: float, mix: str) -> None:
    """A row starts before PATIENCE times the work that stood before it is done, and three batches."""
    generator = random.Random(seed)
    model, limits = CostModel(MINILM), BatchLimits(max_tokens=256, max_rows=64)

    def length() -> int:
        if mix == "short":
            return generator.randint(4, 24)
        if mix == "heavy":
            return min(256, int(8 * generator.paretovariate(1.1)))
        return generator.choice((6, 6, 6, 6, 250))

    lengths = [length() for _ in range(400)]
    rate = load / (sum(map(model.row_s, lengths)) / len(lengths))
    now, arrivals = 0.0, []
    for n in lengths:
        now += generator.expovariate(rate)
        arrivals.append((now, n))
    longest, waits = simulate(arrivals, model, limits)
    for waited, found in waits:
        assert waited <= PATIENCE * found + 3 * longest


def test_a_backlog_of_mixed_lengths_holds_little_padding() -> None:
    """What grouping by length is for: under backlog at most 5 % of the tokens are padding."""
    generator = random.Random(1)
    model, limits = CostModel(MINILM), BatchLimits(max_tokens=256, max_rows=64)
    lane = Lane(Priority.INTERACTIVE)
    tokens = padded = 0

    def arrive(count: int) -> None:
        for _ in range(count):
            n = min(256, int(6 * generator.paretovariate(1.2)))
            lane.add([Row(work_of([n]), 0, n, model.row_s(n))])

    arrive(128)
    for _ in range(400):
        lane.fill_window()
        rows, _ = lane.cut(model, limits)
        lane.account(model.batch_s(len(rows), max(row.length for row in rows)))
        tokens += sum(row.length for row in rows)
        padded += len(rows) * max(row.length for row in rows)
        arrive(len(rows))  # a closed loop of 128 callers
    assert 1 - tokens / padded <= 0.05


def serve(lanes: Lanes, count: int) -> dict[Priority, float]:
    """Serve row by row; returns the work done in each class."""
    served = dict.fromkeys(Priority, 0.0)
    for _ in range(count):
        lane = lanes.next()
        assert lane is not None
        rows, _ = lane.cut(costs(), BatchLimits(max_tokens=10, max_rows=1))
        lanes.account(lane, rows[0].row_s)
        served[lane.priority] += rows[0].row_s
    return served


def share_of_bulk(served: dict[Priority, float]) -> float:
    return served[Priority.BULK] / sum(served.values())


def test_lanes_share_the_engine_and_idle_lanes_save_up_nothing() -> None:
    lanes, model = Lanes(), costs()
    lanes.add(work_of([10] * 1000, Priority.BULK), model)
    assert share_of_bulk(serve(lanes, 300)) == 1  # alone it has everything
    lanes.add(work_of([10] * 400, Priority.INTERACTIVE), model)
    assert share_of_bulk(serve(lanes, 400)) == pytest.approx(BULK_SHARE, abs=0.02)


@pytest.mark.parametrize("first", list(Priority))
def test_nobody_pays_for_what_he_had_while_nobody_else_asked(first: Priority) -> None:
    lanes, model = Lanes(), costs()
    lanes.add(work_of([10] * 1000, first), model)
    serve(lanes, 1000)  # alone, then both idle
    for priority in sorted(Priority, key=lambda priority: priority is first):  # the other one is back first
        lanes.add(work_of([10] * 400, priority), model)
    assert share_of_bulk(serve(lanes, 100)) == pytest.approx(BULK_SHARE, abs=0.02)


def test_unwanted_rows_leave_and_their_work_is_not_counted() -> None:
    lanes, model = Lanes(), costs()
    kept, gone = work_of([5] * 3), work_of([7] * (WINDOW + 10))
    lanes.add(gone, model)
    lanes.add(kept, model)
    assert lanes.next() is not None
    gone.abandoned = True
    lane = lanes.next()
    assert lane is not None
    assert len(lane) == 3
    assert lane.waiting_s == pytest.approx(3 * model.row_s(5))
    kept.deadline = time.perf_counter() - 1
    assert lanes.next() is None
    assert lane.waiting_s == 0
