"""Which rows make the next batch: properties of the pure decision."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tremplin.serve.batch import BatchLimits, choose

lengths_waiting = st.lists(st.integers(1, 300), min_size=1, max_size=120)
limits_of_batch = st.builds(
    BatchLimits, max_tokens=st.integers(1, 2000), max_rows=st.integers(1, 40), window=st.integers(1, 60)
)


@given(lengths_waiting, limits_of_batch)
def test_a_batch_holds_the_oldest_row_once_and_keeps_the_limits(lengths: list[int], limits: BatchLimits) -> None:
    chosen = choose(lengths, limits)
    assert 0 in chosen
    assert len(set(chosen)) == len(chosen)
    assert all(0 <= index < min(len(lengths), limits.window) for index in chosen)
    padded = len(chosen) * max(lengths[index] for index in chosen)
    assert len(chosen) == 1 or (len(chosen) <= limits.max_rows and padded <= limits.max_tokens)


@given(lengths_waiting, limits_of_batch)
def test_every_row_goes_once_in_the_end(lengths: list[int], limits: BatchLimits) -> None:
    waiting, gone = list(range(len(lengths))), []
    for _ in lengths:
        if not waiting:
            break
        chosen = choose([lengths[row] for row in waiting], limits)
        gone += [waiting[index] for index in chosen]
        waiting = [row for index, row in enumerate(waiting) if index not in set(chosen)]
    assert sorted(gone) == list(range(len(lengths)))


@given(lengths_waiting, limits_of_batch)
def test_no_row_of_the_window_could_be_added(lengths: list[int], limits: BatchLimits) -> None:
    """A batch is as full as its kind allows: the next nearest lengths on both sides would break a limit."""
    chosen = choose(lengths, limits)
    rows, width = len(chosen), max(lengths[index] for index in chosen)
    left = [lengths[index] for index in range(min(len(lengths), limits.window)) if index not in set(chosen)]
    shorter = [length for length in left if length <= width]
    if shorter and rows < limits.max_rows:
        assert (rows + 1) * width > limits.max_tokens


@given(st.lists(st.integers(1, 20), min_size=1, max_size=20))
def test_everything_goes_when_it_fits(lengths: list[int]) -> None:
    assert choose(lengths, BatchLimits(max_tokens=20 * 20, max_rows=20)) == list(range(len(lengths)))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([16, 250, 17, 15, 248], {0, 2, 3}),  # the long ones would make half the batch padding
        ([250, 16, 17, 15, 248], {0, 4}),
        ([600, 3, 4], {0}),  # over the limit by itself: it goes alone
        ([5], {0}),
    ],
)
def test_rows_of_like_length_go_together(lengths: list[int], expected: set[int]) -> None:
    assert set(choose(lengths, BatchLimits(max_tokens=512, max_rows=64))) == expected
