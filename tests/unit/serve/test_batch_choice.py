"""Which rows make the next batch: properties of the pure decision."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.echo_engine import costs
from tremplin.registry.passport import BatchCosts
from tremplin.serve.batch import BatchLimits, Release, choose
from tremplin.serve.costs import CostModel

lengths_waiting = st.lists(st.integers(1, 300), min_size=1, max_size=120)
limits_of_batch = st.builds(BatchLimits, max_tokens=st.integers(1, 2000), max_rows=st.integers(1, 40))
cost_models = st.builds(
    BatchCosts,
    batch_s=st.floats(0, 1e-2),
    row_s=st.floats(0, 1e-3),
    token_s=st.floats(1e-6, 1e-3),
    pair_s=st.floats(0, 1e-6),
    knees=st.tuples(st.tuples(st.just(128), st.floats(0, 1e-3))),
).map(CostModel)


@given(lengths_waiting, cost_models, limits_of_batch)
def test_a_batch_holds_the_oldest_row_once_and_keeps_the_limits(
    lengths: list[int], model: CostModel, limits: BatchLimits
) -> None:
    cut = choose(lengths, model, limits)
    assert 0 in cut.chosen
    assert len(set(cut.chosen)) == len(cut.chosen)
    assert all(0 <= index < len(lengths) for index in cut.chosen)
    padded = len(cut.chosen) * max(lengths[index] for index in cut.chosen)
    assert len(cut.chosen) == 1 or (len(cut.chosen) <= limits.max_rows and padded <= limits.max_tokens)
    assert len(cut.chosen) == len(lengths) or cut.release is not Release.ALL


@given(lengths_waiting, cost_models, limits_of_batch, st.data())
def test_what_is_overdue_goes_first_and_alone(
    lengths: list[int], model: CostModel, limits: BatchLimits, data: st.DataObject
) -> None:
    overdue = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=len(lengths), unique=True))
    cut = choose(lengths, model, limits, overdue)
    assert overdue[0] in cut.chosen
    assert set(cut.chosen) <= set(overdue)
    assert cut.release is Release.OVERDUE


@given(lengths_waiting, cost_models, limits_of_batch)
def test_every_row_goes_once_in_the_end(lengths: list[int], model: CostModel, limits: BatchLimits) -> None:
    waiting, gone = list(range(len(lengths))), []
    for _ in lengths:
        if not waiting:
            break
        chosen = choose([lengths[row] for row in waiting], model, limits).chosen
        gone += [waiting[index] for index in chosen]
        waiting = [row for index, row in enumerate(waiting) if index not in set(chosen)]
    assert sorted(gone) == list(range(len(lengths)))


def useful_share(lengths: list[int], chosen: list[int], model: CostModel) -> float:
    rows = [lengths[index] for index in chosen]
    return sum(map(model.row_s, rows)) / model.batch_s(len(rows), max(rows))


@given(lengths_waiting, cost_models, limits_of_batch)
def test_company_is_never_worse_than_going_alone(
    lengths: list[int], model: CostModel, limits: BatchLimits
) -> None:
    chosen = choose(lengths, model, limits).chosen
    assert useful_share(lengths, chosen, model) >= useful_share(lengths, [0], model) * (1 - 1e-9)


@given(st.integers(1, 20), st.integers(1, 20))
def test_equal_rows_all_go_when_they_fit(length: int, count: int) -> None:
    limits = BatchLimits(max_tokens=20 * 20, max_rows=20)
    cut = choose([length] * count, costs(), limits)
    assert sorted(cut.chosen) == list(range(count))
    assert cut.release is Release.ALL


def test_long_rows_go_alone_where_the_caches_are_small() -> None:
    """What FACTS shows: a batch of eight long texts takes longer than eight alone."""
    model = CostModel(BatchCosts(1e-3, 0.0, 1e-4, 1e-7, ((128, 1e-4),)))
    cut = choose([190] * 8, model, BatchLimits(max_tokens=4096))
    assert (len(cut.chosen), cut.release) == (1, Release.COST)


def test_the_older_half_competes_and_the_older_of_equals_goes_first() -> None:
    lengths = [10] * 120
    cut = choose(lengths, costs(), BatchLimits(max_tokens=10**6, max_rows=10**4))
    assert sorted(cut.chosen) == list(range(60))
    assert cut.release is Release.COST
    mixed = [11, 10, 10, 12] * 30
    few = choose(mixed, costs(), BatchLimits(max_tokens=12 * 20, max_rows=64)).chosen
    for length in (10, 11, 12):
        taken = sorted(i for i in few if mixed[i] == length)
        assert taken == [i for i in range(120) if mixed[i] == length][: len(taken)]


@pytest.mark.parametrize(
    ("lengths", "expected", "release"),
    [
        ([16, 250, 17, 15, 248], {0, 2, 3}, Release.TOKENS),  # the long ones would make half the batch padding
        ([250, 16, 17, 15, 248], {0, 4}, Release.TOKENS),
        ([20, 60, 20, 20], {0, 2, 3}, Release.COST),  # 60 along would cost more than starting another batch
        ([600, 3, 4], {0}, Release.TOKENS),  # over the limit by itself: it goes alone
        ([5] * 150, set(range(64)), Release.ROWS),
        ([5], {0}, Release.ALL),
    ],
)
def test_rows_of_like_length_go_together(lengths: list[int], expected: set[int], release: Release) -> None:
    cut = choose(lengths, costs(), BatchLimits(max_tokens=512, max_rows=64))
    assert len(cut.chosen) == len(expected)
    assert {lengths[i] for i in cut.chosen} == {lengths[i] for i in expected}
    assert cut.release is release
