"""Admission: what is let in, what is refused, and when to come back."""

from __future__ import annotations

import copy
import heapq
import itertools
import random
import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tremplin.errors import EmptyText, NotReady, Overloaded, TooManyInputs
from tremplin.registry.passport import BatchCosts
from tremplin.serve import admit
from tremplin.serve.admit import CHARACTERS_PER_TOKEN, Admission, AdmissionLimits, Ticket
from tremplin.serve.call import Call, Priority
from tremplin.serve.costs import CostModel
from tremplin.serve.promises import MAX_RETRY_AFTER_S, NEWCOMERS, Promises

LIMITS = AdmissionLimits(
    max_rows_per_request=10, max_tokens_per_request=2000, max_queue_tokens=1000, max_queue_s=5.0
)


def admission(tokens_per_s: float, limits: AdmissionLimits = LIMITS, **options: int) -> Admission:
    """A batch costs nothing to start, so that work is tokens and nothing else."""
    return Admission(limits, CostModel(BatchCosts(0.0, 0.0, 1 / tokens_per_s, 0.0)), **options)


def test_an_empty_queue_admits_any_legal_request() -> None:
    door = admission(1.0)  # 2000 tokens would take half an hour
    ticket = door.enter([200] * 10)
    assert (door.queued_rows, door.queued_tokens) == (10, 2000)
    door.leave(ticket)
    assert (door.queued_rows, door.queued_tokens, door.predicted_wait_s()) == (0, 0, 0)


def test_a_full_queue_refuses_and_says_when_there_will_be_room() -> None:
    door = admission(500.0)
    ticket = door.enter([180] * 5, priority=Priority.INTERACTIVE)
    with pytest.raises(Overloaded, match=r"900 tokens, about 1\.8 s of work") as raised:
        door.enter([200], request=1)
    # 300 tokens more than 80 % of the queue holds, at 500 tokens/s, and a little spread.
    assert 0.6 <= raised.value.retry_after_s <= 0.66
    assert door.queued_tokens == 900
    door.leave(ticket)
    door.enter([200], request=1)


def test_a_slow_queue_refuses_although_there_is_room() -> None:
    door = admission(10.0)
    door.enter([100], priority=Priority.INTERACTIVE)  # ten seconds of work
    with pytest.raises(Overloaded, match=r"10\.0 s of work"):
        door.enter([1], priority=Priority.INTERACTIVE)


def test_streams_empty_the_queue_side_by_side() -> None:
    one, two = admission(10.0), admission(10.0, streams=2)
    for door in (one, two):
        door.enter([40], priority=Priority.INTERACTIVE)
    assert one.predicted_wait_s() == pytest.approx(4.0)
    assert two.predicted_wait_s() == pytest.approx(2.0)


def test_a_request_is_refused_whole_for_what_it_is() -> None:
    door = admission(1e6)
    with pytest.raises(EmptyText):
        door.check_rows(0)
    door.check_rows(10)
    with pytest.raises(TooManyInputs, match="11 inputs"):
        door.check_rows(11)
    with pytest.raises(TooManyInputs, match="2001 tokens"):
        door.enter([2001])
    assert door.queued_tokens == 0


def test_a_draining_server_admits_nobody() -> None:
    door = admission(1e6)
    door.close()
    with pytest.raises(NotReady):
        door.enter([1])


def test_what_takes_long_is_bulk_unless_the_caller_says_otherwise() -> None:
    door = admission(100.0)
    assert door.enter([10] * 2).priority is Priority.INTERACTIVE
    assert door.enter([60] * 2).priority is Priority.BULK
    assert door.enter([10], priority=Priority.BULK).priority is Priority.BULK
    assert admission(100.0).enter([60] * 2, priority=Priority.INTERACTIVE).priority is Priority.INTERACTIVE
    assert admission(100.0).enter([200]).priority is Priority.INTERACTIVE, "a lone text is never bulk"


def test_each_class_has_a_bound_of_its_own() -> None:
    door = admission(1000.0)
    door.enter([100] * 10, priority=Priority.BULK)
    with pytest.raises(Overloaded):
        door.enter([100], priority=Priority.BULK)
    door.enter([100] * 5, priority=Priority.INTERACTIVE)


def test_a_deadline_that_cannot_be_kept_is_refused_at_once() -> None:
    door = admission(100.0)
    door.enter([100], priority=Priority.INTERACTIVE)  # a second
    with pytest.raises(Overloaded, match="more than the deadline allows") as raised:
        door.enter([10], deadline=time.perf_counter() + 0.2)
    assert 0.7 <= raised.value.retry_after_s <= 0.9
    door.enter([10], deadline=time.perf_counter() + 2.0)


def test_readiness_ends_before_the_queue_is_full() -> None:
    door = admission(1e6)
    assert door.has_room()
    door.enter([89] * 10, priority=Priority.INTERACTIVE)
    assert door.has_room()
    door.enter([50], priority=Priority.INTERACTIVE)
    assert not door.has_room()


@given(
    st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=10), max_size=40),
    st.floats(1.0, 1e6),
    st.sampled_from([None, *Priority]),
)
def test_what_is_counted_in_is_counted_out(
    requests: list[list[int]], tokens_per_s: float, priority: Priority | None
) -> None:
    door = admission(tokens_per_s)
    inside: list[Ticket] = []
    waits_s: list[float] = []
    for number, lengths in enumerate(requests):
        try:
            inside.append(door.enter(lengths, request=number, priority=priority))
        except Overloaded as refusal:
            waits_s.append(refusal.retry_after_s)
            assert inside, "an empty queue refused"
        assert door.queued_tokens == sum(ticket.tokens for ticket in inside)
        for of_class in Priority:
            mine = [ticket for ticket in inside if ticket.priority is of_class]
            # Only a request that met an empty queue may stand above the mark.
            assert sum(ticket.tokens for ticket in mine) <= LIMITS.max_queue_tokens or len(mine) == 1
        if len(inside) > 3:
            door.leave(inside.pop(0))
    for ticket in inside:
        door.leave(ticket)
    assert (door.queued_rows, door.queued_tokens) == (0, 0)
    assert all(0 <= wait_s <= MAX_RETRY_AFTER_S for wait_s in waits_s)


def test_who_is_refused_unread_gets_a_place_as_everybody_else() -> None:
    door = admission(500.0)
    ticket = door.enter([180] * 5, priority=Priority.INTERACTIVE)
    with pytest.raises(Overloaded, match=r"900 tokens, about 1\.8 s of work"):
        door.enter([200], request=1)
    with pytest.raises(Overloaded, match=r"900 tokens, about 1\.8 s of work") as raised:
        door.check_open(1, 800, request=2, call=Call())
    assert raised.value.retry_after_s >= 0.6
    door.leave(ticket)
    door.check_open(1, 800, request=2, call=Call())


@settings(deadline=None)
@given(
    waiting=st.lists(st.tuples(st.sampled_from(Priority), st.integers(1, 600)), max_size=8),
    refused=st.lists(st.integers(0, 3), max_size=4),
    comes=st.tuples(st.sampled_from(Priority), st.integers(1, 10), st.integers(1, 200), st.integers(0, 3)),
    later_s=st.floats(0, 5),
    left_s=st.none() | st.floats(0, 10),
)
def test_nobody_is_refused_unread_who_would_be_let_in(
    waiting: list[tuple[Priority, int]],
    refused: list[int],
    comes: tuple[Priority, int, int, int],
    later_s: float,
    left_s: float | None,
) -> None:
    clock = [100.0]
    door = admission(200.0)
    priority, rows, length, request = comes
    deadline = None if left_s is None else clock[0] + later_s + left_s
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admit.time, "perf_counter", lambda: clock[0])
        for lane, tokens in waiting:
            with suppress(Overloaded):
                door.enter([tokens], priority=lane, request=100 + tokens)
        for number in refused:
            with suppress(Overloaded):
                door.enter([2000], priority=priority, request=number)
        clock[0] += later_s
        unread = copy.deepcopy(door)
        try:
            door.enter([length] * rows, priority=priority, request=request, deadline=deadline)
        except Overloaded:
            return
        characters = int(CHARACTERS_PER_TOKEN * length * rows)
        unread.check_open(rows, characters, request=request, call=Call(priority=priority, deadline=deadline))


# -- promises ------------------------------------------------------------------------------------------


def test_refused_callers_get_times_of_their_own_as_far_apart_as_their_work() -> None:
    promises = Promises()
    waits = [promises.promise(number, 0.9, 2.0, 100.0) for number in range(5)]
    for earlier, later in itertools.pairwise(waits):
        assert later - earlier == pytest.approx(1.0, abs=0.06)
    assert promises.promise(3, 0.9, 2.0, 101.0) == pytest.approx(waits[3] - 1.0), "a promise is kept, not renewed"


def test_a_place_is_for_who_comes_back_in_time_and_once() -> None:
    promises = Promises()
    wait_s = promises.promise(7, 1.0, 4.0, 100.0)
    assert promises.are_open(100.0)
    assert not promises.redeem(7, 102.0), "too early"
    assert not promises.redeem(8, 100.0 + wait_s), "somebody else"
    assert promises.redeem(7, 100.0 + wait_s)
    assert not promises.redeem(7, 100.0 + wait_s), "used up"
    promises.promise(9, 1.0, 4.0, 200.0)
    assert promises.are_open(206.0)
    assert not promises.are_open(210.0)
    assert len(promises) == 0
    assert not promises.redeem(9, 210.0), "too late"


def test_nobody_is_told_to_wait_for_more_than_two_minutes() -> None:
    promises = Promises()
    waits = [promises.promise(number, 10.0, 1.0, 0.0) for number in range(100)]
    assert max(waits) <= MAX_RETRY_AFTER_S
    assert len(promises) < 100, "what cannot be told is not promised"


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), load=st.sampled_from((1.5, 3.0)), absent=st.sampled_from((0.0, 0.5, 1.0)))
def test_under_overload_the_obedient_are_served_and_the_engine_never_idles(
    seed: int, load: float, absent: float
) -> None:
    """Simulated minutes of Poisson arrivals; a share of the refused never comes back."""
    generator = random.Random(seed)
    work_s, bound_s, minutes_s = 0.01, 2.0, 40.0
    door = admission(1000.0, AdmissionLimits(max_queue_tokens=10**6, max_queue_s=bound_s))
    clock = [0.0]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(admit.time, "perf_counter", lambda: clock[0])
    numbers = itertools.count()
    arrivals: list[tuple[float, int, bool]] = []
    now = 0.0
    while now < minutes_s:
        now += generator.expovariate(load / work_s)
        arrivals.append((now, next(numbers), False))
    heapq.heapify(arrivals)
    inside: list[Ticket] = []
    free_at = busy_s = 0.0
    retries = served_retries = 0
    waits: list[float] = []
    try:
        while arrivals:
            clock[0], number, returns = heapq.heappop(arrivals)
            if clock[0] > minutes_s:
                break
            while inside and free_at <= clock[0]:
                door.leave(inside.pop(0))
                busy_s += work_s
                free_at = free_at + work_s if inside else free_at
            retries += returns
            try:
                door.check_open(1, 40, request=number, call=Call(priority=Priority.INTERACTIVE))
                ticket = door.enter([10], request=number, priority=Priority.INTERACTIVE)
            except Overloaded as refusal:
                if not returns and generator.random() >= absent:
                    heapq.heappush(arrivals, (clock[0] + refusal.retry_after_s + 0.001, number, True))
                continue
            served_retries += returns
            free_at = free_at if inside else clock[0] + work_s
            inside.append(ticket)
            waits.append(len(inside) * work_s)
    finally:
        monkeypatch.undo()
    assert busy_s >= 0.97 * (minutes_s - bound_s), "the engine waited for somebody"
    assert max(waits) <= bound_s * 1.05
    if absent < 1:
        assert retries > 100
        assert served_retries / retries >= 0.95
    assert NEWCOMERS < 1
