"""Admission: what is let in, what is refused, and when to come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tremplin.errors import EmptyText, NotReady, Overloaded, TooManyInputs
from tremplin.serve.admit import MAX_RETRY_AFTER_S, Admission, AdmissionLimits

LIMITS = AdmissionLimits(
    max_rows_per_request=10, max_tokens_per_request=2000, max_queue_tokens=1000, max_queue_s=5.0
)


def test_an_empty_queue_admits_any_legal_request() -> None:
    admission = Admission(LIMITS, tokens_per_s=1.0)  # 2000 tokens would take half an hour
    admission.enter(10, 2000)
    assert (admission.queued_rows, admission.queued_tokens) == (10, 2000)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    admission = Admission(LIMITS, tokens_per_s=500.0)
    admission.enter(5, 900)
    with pytest.raises(Overloaded, match="900 tokens") as raised:
        admission.enter(1, 200)
    # 100 tokens too many at 500 tokens/s, plus 50 ms, jittered upwards by at most 30 %.
    assert 0.25 <= raised.value.retry_after_s <= 0.25 * 1.3
    assert admission.queued_tokens == 900
    admission.leave(5, 900)
    admission.enter(1, 200)


def test_a_slow_queue_refuses_although_there_is_room() -> None:
    admission = Admission(LIMITS, tokens_per_s=10.0)
    admission.enter(1, 100)  # ten seconds of work
    with pytest.raises(Overloaded, match=r"10\.0 s of work"):
        admission.enter(1, 1)


def test_a_request_is_refused_whole_for_what_it_is() -> None:
    admission = Admission(LIMITS, tokens_per_s=1e6)
    with pytest.raises(EmptyText):
        admission.check_rows(0)
    admission.check_rows(10)
    with pytest.raises(TooManyInputs, match="11 inputs"):
        admission.check_rows(11)
    with pytest.raises(TooManyInputs, match="2001 tokens"):
        admission.enter(1, 2001)
    assert admission.queued_tokens == 0


def test_a_draining_server_admits_nobody() -> None:
    admission = Admission(LIMITS, tokens_per_s=1e6)
    admission.close()
    with pytest.raises(NotReady):
        admission.enter(1, 1)


def test_speed_is_learnt_from_batches() -> None:
    admission = Admission(LIMITS, tokens_per_s=100.0)
    admission.enter(1, 1000)
    assert admission.predicted_wait_s() == pytest.approx(10.0)
    for _ in range(200):
        admission.observe(1000, 1.0)
    assert admission.predicted_wait_s() == pytest.approx(1.0, rel=0.01)
    admission.observe(1000, 0.0)  # a clock that did not move teaches nothing
    assert admission.predicted_wait_s() == pytest.approx(1.0, rel=0.01)


@given(
    st.lists(st.tuples(st.integers(1, 10), st.integers(1, 2000)), max_size=40),
    st.floats(1.0, 1e6),
)
def test_what_is_counted_in_is_counted_out(requests: list[tuple[int, int]], tokens_per_s: float) -> None:
    admission = Admission(LIMITS, tokens_per_s=tokens_per_s)
    inside: list[tuple[int, int]] = []
    waits_s: list[float] = []
    for rows, tokens in requests:
        try:
            admission.enter(rows, tokens)
        except Overloaded as refusal:
            waits_s.append(refusal.retry_after_s)
            assert inside, "an empty queue refused"
        else:
            inside.append((rows, tokens))
        assert admission.queued_tokens == sum(tokens for _, tokens in inside)
        # Only a request that met an empty queue may stand above the mark.
        assert admission.queued_tokens <= LIMITS.max_queue_tokens or len(inside) == 1
        if len(inside) > 3:
            admission.leave(*inside.pop(0))
    for rows, tokens in inside:
        admission.leave(rows, tokens)
    assert (admission.queued_rows, admission.queued_tokens) == (0, 0)
    assert all(0 < wait_s <= MAX_RETRY_AFTER_S for wait_s in waits_s)
