from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tremplin.errors import BadInput
from tremplin.optimize.slo import EXAMPLE, Constraint, Option, Slo, pick, read_slo

SLO = read_slo(EXAMPLE)
GOOD = Option("mood@3-int8", "onnxruntime", 1, 5.0, 12.0, 18.0, 320.0, 0.3, 180e6, 8e6)


def test_an_objective_is_read_in_base_units() -> None:
    found = read_slo(EXAMPLE)
    assert found == Slo(
        (
            Constraint("p95", 20),
            Constraint("rate", 200),
            Constraint("loss", 0.5),
            Constraint("memory", 200e6),
            Constraint("size", 10e6),
        )
    )
    assert str(found) == "p95 <= 20 ms, rate >= 200/s, loss <= 0.5 points, memory <= 200 MB, size <= 10 MB"


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("p50<=1.5s", 1500),
        ("p99 <= 800us", 0.8),
        ("p99<=800µs", 0.8),
        ("rate>=1.2e4/min", 200),
        ("loss<=.5 % points", 0.5),
        ("loss<=0pts", 0),
        ("memory<=1GiB", 2**30),
        ("memory<=3MiB", 3 * 2**20),
        ("size<=512KiB", 2**19),
        ("size<=70kB", 70_000),
        ("size<=1GB", 1e9),
        ("size<=9B", 9),
    ],
)
def test_units(text: str, limit: float) -> None:
    (constraint,) = read_slo(text).constraints
    assert constraint.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "There is no objective; write one such as 'p95<=20ms,"),
        ("p95<=20ms,", "'' is not a constraint"),
        ("p95=20ms", "'p95=20ms' is not a constraint: a name, <= or >=, a number and a unit, such as 'p95<=20ms'"),
        ("p95<=fast", "'p95<=fast' is not a constraint"),
        ("p90<=20ms", "'p90' in 'p90<=20ms' is not one of p50, p95, p99, rate, loss, memory, size"),
        ("p95>=20ms", "'p95>=20ms': p95 is held to at most a limit, such as 'p95<=20ms'"),
        ("rate<=20/s", "'rate<=20/s': rate is held to at least a limit, such as 'rate>=200/s'"),
        ("p95<=20", "'p95<=20': p95 has no unit; it is one of ms, s, us, µs, such as 'p95<=20ms'"),
        ("p95<=20MB", "'p95<=20MB': 'MB' is not a unit of p95; it is one of ms"),
        ("loss<=0.5%", "'loss<=0.5%': '%' is not a unit of loss; it is one of pt, pts, points, % points"),
        ("size<=-1MB", "'size<=-1MB': -1 cannot be held; the limit is above 0, such as 'size<=10MB'"),
        ("loss<=-1pt", "'loss<=-1pt': -1 cannot be held; the limit is 0 or more, such as 'loss<=0.5pt'"),
        ("p95<=0ms", "'p95<=0ms': 0 cannot be held"),
        ("p95<=1e999ms", "'p95<=1e999ms': 1e999 cannot be held"),
        ("p95<=20ms,size<=1MB,p95<=20ms", "p95 is given twice; give each figure one limit"),
        ("p95<=20ms,p95<=30ms", "p95 is given twice"),
        ("p50<=30ms,p99<=20ms", "'p50 <= 30 ms' contradicts 'p99 <= 20 ms': p50 is never above p99"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_slo(text)
    assert said in str(caught.value)


LIMITS = st.floats(0.01, 1e4).map(lambda value: float(f"{value:.3g}"))


@given(st.dictionaries(st.sampled_from(["p95", "rate", "loss", "memory", "size"]), LIMITS, min_size=1))
def test_what_is_written_is_read_back(limits: dict[str, float]) -> None:
    units = {"p95": "ms", "rate": "/s", "loss": "pt", "memory": "kB", "size": "B"}
    text = ",".join(f"{name}{'>=' if name == 'rate' else '<='}{limits[name]}{units[name]}" for name in limits)
    factor = {"memory": 1e3}
    assert read_slo(text) == Slo(
        tuple(Constraint(name, limit * factor.get(name, 1)) for name, limit in limits.items())
    )


# -- picking -------------------------------------------------------------------------------------------


def test_the_cheapest_that_holds_everything_is_picked_and_each_other_has_its_reason() -> None:
    others = {
        "misses p95: 31 ms against 20 ms": replace(GOOD, ref="mood@2", p95_ms=31.0),
        "meets all but costs more: 2 threads": replace(GOOD, threads=2, rate_per_s=600.0),
        "meets all but costs more: 190 MB against 180 MB": replace(GOOD, engine="openvino", memory_bytes=190e6),
        "meets all but answers less: 300/s against 320/s": replace(GOOD, engine="a", rate_per_s=300.0),
        "meets all and costs the same; it comes later in the alphabet": replace(GOOD, engine="z"),
        "p95 was not measured": replace(GOOD, p95_ms=None),
        "size was not measured; misses loss: 0.62 points against 0.5 points": replace(
            GOOD, loss_bound_points=0.62, size_bytes=float("nan")
        ),
        "misses rate: 150/s against 200/s; misses memory: 201 MB against 200 MB": replace(
            GOOD, rate_per_s=150.0, memory_bytes=201e6
        ),
        "misses p95: 20.004 ms against 20 ms": replace(GOOD, p95_ms=20.004),
    }
    choice = pick([*others.values(), GOOD], SLO)
    assert choice.picked is GOOD
    assert choice.nearest is None
    assert [(item.option, item.reason) for item in choice.rejected] == [(o, why) for why, o in others.items()]
    assert str(choice) == (
        "mood@3-int8 on onnxruntime, 1 thread is the cheapest that holds p95 <= 20 ms, rate >= 200/s, "
        "loss <= 0.5 points, memory <= 200 MB, size <= 10 MB."
    )


def test_memory_that_was_not_measured_counts_as_most() -> None:
    slo = read_slo("p95<=20ms")
    unknown = replace(GOOD, memory_bytes=None)
    choice = pick([unknown, GOOD], slo)
    assert choice.picked is GOOD
    assert choice.rejected[0].reason == "meets all but its memory was not measured"
    assert pick([unknown], slo).picked is unknown


def test_the_nearest_is_named_when_nothing_holds() -> None:
    slow = replace(GOOD, p95_ms=24.0, rate_per_s=100.0)
    lossy = replace(GOOD, ref="mood@2-int8", loss_bound_points=0.65)
    unmeasured = replace(GOOD, ref="mood@1", loss_bound_points=None)
    choice = pick([slow, unmeasured, lossy], SLO)
    assert choice.picked is None
    assert choice.nearest is not None
    assert choice.nearest.option is lossy
    assert [(miss.constraint.name, miss.violation) for miss in choice.nearest.misses] == [
        ("loss", pytest.approx(0.3))
    ]
    assert [item.reason for item in choice.rejected] == [
        "misses rate: 100/s against 200/s; misses p95: 24 ms against 20 ms",
        "loss was not measured",
        "misses loss: 0.65 points against 0.5 points",
    ]
    assert str(choice).endswith(
        ". mood@2-int8 on onnxruntime, 1 thread comes nearest: "
        "it misses loss: 0.65 points against 0.5 points (30 % off)."
    )


def test_nothing_measured_is_nothing_known() -> None:
    choice = pick([replace(GOOD, p95_ms=None)], SLO)
    assert (choice.picked, choice.nearest) == (None, None)
    assert "no option was measured for all of it" in str(choice)
    assert pick([], SLO).picked is None


def test_violations_are_relative() -> None:
    assert Constraint("p95", 20).violation(30) == pytest.approx(0.5)
    assert Constraint("p95", 20).violation(20) == 0
    assert Constraint("rate", 200).violation(100) == pytest.approx(1)
    assert Constraint("rate", 200).violation(0) == float("inf")
    assert Constraint("loss", 0).violation(0.2) == pytest.approx(0.2)
    assert not Constraint("p95", 20).is_met_by(float("nan"))


FIGURES = st.one_of(st.none(), st.integers(1, 4).map(float))
OPTIONS = st.lists(
    st.builds(
        Option,
        ref=st.sampled_from(["m@1", "m@2"]),
        engine=st.sampled_from(["onnxruntime", "openvino"]),
        threads=st.integers(1, 2),
        p95_ms=FIGURES,
        rate_per_s=FIGURES,
        memory_bytes=FIGURES,
    ),
    max_size=8,
    unique_by=lambda option: (option.ref, option.engine, option.threads),
)


@given(OPTIONS, st.randoms(use_true_random=False))
def test_the_pick_holds_everything_is_the_cheapest_and_does_not_depend_on_order(
    options: list[Option], random: object
) -> None:
    slo = read_slo("p95<=2ms,rate>=2/s,memory<=3B")
    choice = pick(options, slo)
    holding = [
        option
        for option in options
        if option.p95_ms is not None
        and option.p95_ms <= 2
        and option.rate_per_s is not None
        and option.rate_per_s >= 2
        and option.memory_bytes is not None
        and option.memory_bytes <= 3
    ]
    assert (choice.picked in holding) if holding else choice.picked is None
    if choice.picked is not None:
        cost = (choice.picked.threads, choice.picked.memory_bytes, -(choice.picked.rate_per_s or 0))
        assert cost == min((o.threads, o.memory_bytes, -(o.rate_per_s or 0)) for o in holding)
    assert len(choice.rejected) == len(options) - (choice.picked is not None)
    assert all(item.reason for item in choice.rejected)
    shuffled = list(options)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = pick(shuffled, slo)
    assert (again.picked, again.nearest) == (choice.picked, choice.nearest)
