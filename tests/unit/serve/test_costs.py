"""The learned costs: what they predict, how far off they are, what serving teaches them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tremplin.registry.passport import BatchCosts, Throughput
from tremplin.serve.costs import CostModel, fit, non_negative_least_squares, token_budget

SHAPES = [(r, t) for t in (8, 16, 32, 64, 128, 256) for r in (1, 2, 4, 8, 16) if r * t <= 1024]
TRUE = BatchCosts(batch_s=7e-4, row_s=5e-5, token_s=9e-5, pair_s=1e-7, knees=((128, 2e-5), (512, 3e-5)))


def measured(costs: BatchCosts, noise: float = 0.0, seed: int = 0) -> list[Throughput]:
    generator = np.random.default_rng(seed)
    model = CostModel(costs)
    rates = []
    for rows, tokens in SHAPES:
        seconds = model.batch_s(rows, tokens) * float(np.exp(noise * generator.normal()))
        rates.append(Throughput(rows, tokens, rows / seconds, rows / seconds, rows / seconds))
    return rates


def test_it_finds_the_costs_that_made_the_measurements() -> None:
    found = CostModel(fit(measured(TRUE)))
    truth = CostModel(TRUE)
    for rows, width in [*SHAPES, (3, 20), (20, 12), (2, 200)]:
        assert found.batch_s(rows, width) == pytest.approx(truth.batch_s(rows, width), rel=0.01)
    assert found.costs.error is not None
    assert found.costs.error.p90 < 0.01
    assert found.costs.error.n == len(SHAPES)


def test_noise_shows_in_the_error_that_is_told() -> None:
    found = fit(measured(TRUE, noise=0.2, seed=3))
    assert found.error is not None
    assert 0.05 < found.error.median < 0.4
    assert found.error.median <= found.error.p90


def test_few_shapes_are_enough_to_begin_with() -> None:
    one = fit([Throughput(1, 16, 500.0, 500.0, 500.0)])
    assert CostModel(one).batch_s(1, 16) == pytest.approx(1 / 500, rel=1e-4)
    assert one.error is not None
    assert math.isnan(one.error.median)
    with pytest.raises(ValueError, match="no batch"):
        fit([])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_least_squares_is_non_negative_and_no_worse_than_any_other_choice(seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix, target = generator.normal(size=(12, 4)), generator.normal(size=12)
    found = non_negative_least_squares(matrix, target)
    assert (found >= 0).all()
    best = ((matrix @ found - target) ** 2).sum()
    for _ in range(200):
        other = np.abs(generator.normal(size=4)) * generator.integers(0, 2, 4)
        assert best <= ((matrix @ other - target) ** 2).sum() + 1e-9


@given(st.integers(1, 64), st.integers(1, 256))
def test_a_larger_batch_never_costs_less(rows: int, width: int) -> None:
    model = CostModel(TRUE)
    assert model.batch_s(rows, width) < model.batch_s(rows + 1, width)
    assert model.batch_s(rows, width) < model.batch_s(rows, width + 1)
    assert model.row_s(width) <= model.batch_s(1, width)


def test_the_budget_is_where_more_tokens_gain_nothing() -> None:
    flat = BatchCosts(batch_s=0.0, row_s=0.0, token_s=1e-4, pair_s=0.0)
    assert token_budget(flat) == 16  # a batch costs nothing to start: one row is as good as many
    assert token_budget(BatchCosts(8e-4, 0.0, 1e-4, 0.0)) == 128  # 8 tokens' worth of 136
    assert token_budget(BatchCosts(3e-3, 0.0, 1e-4, 0.0)) == 512
    caches = BatchCosts(3e-3, 0.0, 1e-4, 0.0, knees=((128, 1e-4),))
    assert token_budget(caches) == 128


def test_serving_teaches_it_that_the_machine_is_slower_today() -> None:
    model = CostModel(TRUE)
    before = model.seconds_per_work
    for _ in range(200):
        model.observe(8, 16, 2 * model.batch_s(8, 16))
    assert model.drift == pytest.approx(2, rel=0.15)
    assert model.seconds_per_work == pytest.approx(2 * before, rel=0.15)
    model.observe(8, 16, 1e6)  # one batch that took for ever teaches little
    assert model.drift < 2.6
    for _ in range(300):
        model.observe(8, 16, model.batch_s(8, 16))
    assert model.drift == pytest.approx(1, rel=0.15)


def test_serving_teaches_it_what_a_backlog_costs() -> None:
    model = CostModel(TRUE)
    for _ in range(200):
        model.observe_backlog(3e-3, 1e-3)
    assert model.seconds_per_work == pytest.approx(3, rel=0.01)
    model.observe_backlog(1.0, 0.0)
    assert model.seconds_per_work == pytest.approx(3, rel=0.01)
