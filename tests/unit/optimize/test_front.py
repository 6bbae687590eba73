from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tremplin.optimize.front import Objective, dominated_by, dominates_all, front

OBJECTIVES = (Objective("p95_ms"), Objective("rate_per_s", higher_is_better=True), Objective("size"))
# Few values, so that ties and duplicates are common.
POINTS = st.lists(
    st.fixed_dictionaries({objective.name: st.integers(0, 3).map(float) for objective in OBJECTIVES}), max_size=12
)


def dominates(a: dict[str, float], b: dict[str, float]) -> bool:
    """The definition, spelled out."""
    no_worse = a["p95_ms"] <= b["p95_ms"] and a["rate_per_s"] >= b["rate_per_s"] and a["size"] <= b["size"]
    return no_worse and a != b


def test_the_front_of_three_versions() -> None:
    points = [
        {"p95_ms": 20.0, "rate_per_s": 100.0, "size": 90.0, "seed": 1.0},
        {"p95_ms": 10.0, "rate_per_s": 200.0, "size": 25.0, "seed": 2.0},
        {"p95_ms": 30.0, "rate_per_s": 250.0, "size": 25.0, "seed": 3.0},
    ]
    assert front(points, OBJECTIVES) == [False, True, True]
    assert dominated_by(points, OBJECTIVES) == [(1,), (), ()]


@given(POINTS)
def test_no_member_is_dominated_and_every_other_is_by_a_member(points: list[dict[str, float]]) -> None:
    is_member = front(points, OBJECTIVES)
    by = dominated_by(points, OBJECTIVES)
    for j, point in enumerate(points):
        assert is_member[j] is not any(dominates(other, point) for other in points)
        assert by[j] == tuple(i for i, other in enumerate(points) if is_member[i] and dominates(other, point))
        assert bool(by[j]) is not is_member[j]


@given(POINTS, st.randoms(use_true_random=False))
def test_order_does_not_matter(points: list[dict[str, float]], random: object) -> None:
    order = list(range(len(points)))
    random.shuffle(order)  # type: ignore[attr-defined]
    is_member = front(points, OBJECTIVES)
    assert front([points[i] for i in order], OBJECTIVES) == [is_member[i] for i in order]


@given(POINTS)
def test_duplicates_stay_and_change_nothing(points: list[dict[str, float]]) -> None:
    is_member = front(points, OBJECTIVES)
    assert front(points + points, OBJECTIVES) == is_member + is_member


@given(POINTS, POINTS)
def test_dominating_all_is_dominating_each(a: list[dict[str, float]], b: list[dict[str, float]]) -> None:
    expected = all(any(dominates(mine, theirs) for mine in a) for theirs in b)
    assert dominates_all(a, b, OBJECTIVES) is expected


@given(POINTS)
def test_a_front_does_not_dominate_itself(points: list[dict[str, float]]) -> None:
    members = [point for point, is_member in zip(points, front(points, OBJECTIVES), strict=True) if is_member]
    assert dominates_all(members, members, OBJECTIVES) is not bool(members)
    others = [point for point in points if point not in members]
    assert dominates_all(members, others, OBJECTIVES)


@pytest.mark.parametrize("point", [{"p95_ms": 1.0}, {"p95_ms": float("nan"), "rate_per_s": 1.0, "size": 1.0}])
def test_what_was_not_measured_is_not_ranked(point: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="point 0 has no"):
        front([point], OBJECTIVES)
