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


def useful_share(lengths: list[int], chosen: list[int], limits: BatchLimits) -> float:
    rows = [lengths[index] for index in chosen]
    return sum(rows) / (limits.start_tokens + len(rows) * max(rows))


@given(lengths_waiting, limits_of_batch)
def test_company_is_never_worse_than_going_alone(lengths: list[int], limits: BatchLimits) -> None:
    chosen = choose(lengths, limits)
    assert useful_share(lengths, chosen, limits) >= useful_share(lengths, [0], limits)


@given(lengths_waiting, limits_of_batch)
def test_a_row_as_long_as_the_longest_is_left_only_for_a_limit(lengths: list[int], limits: BatchLimits) -> None:
    """Such a row pads nothing, so it always pays to take it along."""
    chosen = choose(lengths, limits)
    rows, width = len(chosen), max(lengths[index] for index in chosen)
    left = [lengths[index] for index in range(min(len(lengths), limits.window)) if index not in set(chosen)]
    if width in left and rows < limits.max_rows:
        assert (rows + 1) * width > limits.max_tokens


@given(st.integers(1, 20), st.integers(1, 20))
def test_equal_rows_all_go_when_they_fit(length: int, count: int) -> None:
    limits = BatchLimits(max_tokens=20 * 20, max_rows=20)
    assert sorted(choose([length] * count, limits)) == list(range(count))


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([16, 250, 17, 15, 248], {0, 2, 3}),  # the long ones would make half the batch padding
        ([250, 16, 17, 15, 248], {0, 4}),
        ([20, 60, 20, 20], {0, 2, 3}),  # taking 60 along would cost more than starting another batch
        ([600, 3, 4], {0}),  # over the limit by itself: it goes alone
        ([5], {0}),
    ],
)
def test_rows_of_like_length_go_together(lengths: list[int], expected: set[int]) -> None:
    assert set(choose(lengths, BatchLimits(max_tokens=512, max_rows=64))) == expected
