from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tremplin.optimize.report.plots import (
    CurvePoint,
    IntervalRow,
    ParetoPoint,
    ReliabilityBin,
    Series,
    confusion_chart,
    dominated,
    interval_chart,
    learning_chart,
    pareto_chart,
    reliability_chart,
    throughput_chart,
)
from tremplin.optimize.report.plots.axes import Box, free_place, spread
from tremplin.optimize.report.plots.scale import linear_scale, log2_scale, log_scale
from tremplin.optimize.report.plots.svg import WIDTH, fit, fit_middle, text_width

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</text><script>alert(1)</script>\"' onload=x &amp; \x00\x1b\ud800 url(http://evil.example)"

values = st.floats(allow_nan=False, allow_infinity=False)
wild = st.floats()
labels = st.text(max_size=40)
rows = st.lists(
    st.builds(
        IntervalRow, labels, values, values, values, st.none() | values, st.none() | st.booleans()
    ),
    max_size=8,
)  # fmt: skip
points = st.lists(
    st.builds(ParetoPoint, labels, values, values, values, values, values, st.booleans()), max_size=8
)
series = st.lists(
    st.builds(Series, labels, st.lists(st.tuples(values, values), max_size=6)), max_size=8
)  # fmt: skip


def check(svg: str) -> ET.Element:
    """Parse a picture and check what every picture promises."""
    root = ET.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title") is not None
    assert root.find(f"{SVG}desc") is not None
    assert root.get("viewBox", "").startswith("0 0 ")
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {
            "svg", "title", "desc", "g", "text", "line", "circle", "polyline", "path", "rect",
        }  # fmt: skip
        for name, value in element.attrib.items():
            assert name not in {"style", "href", "src"}
            assert not name.startswith("on")
            if name not in {"class", "role", "font-family", "text-anchor"}:
                assert not re.search(r"nan|inf", value, re.IGNORECASE), (name, value)
    return root


def texts(root: ET.Element) -> list[str]:
    return [element.text or "" for element in root.iter(f"{SVG}text")]


@given(labels, rows, labels)
def test_interval_chart_holds_for_any_finite_values(title: str, rows: list[IntervalRow], unit: str) -> None:
    check(interval_chart(title, rows, unit=unit))


@given(labels, series)
def test_throughput_chart_holds_for_any_finite_values(title: str, series: list[Series]) -> None:
    check(throughput_chart(title, series, x_label="x", y_label="y"))


@given(labels, points)
def test_pareto_chart_holds_for_any_finite_values(title: str, points: list[ParetoPoint]) -> None:
    check(pareto_chart(title, points, x_label="x", y_label="y"))


@given(st.lists(labels, max_size=24), st.lists(st.lists(wild, max_size=24), max_size=24))
@settings(max_examples=40)
def test_confusion_chart_holds_for_any_matrix(labels: list[str], matrix: list[list[float]]) -> None:
    check(confusion_chart("title", labels, matrix))


@given(labels, st.lists(st.builds(CurvePoint, st.integers(0, 9), wild, wild, wild), max_size=8), st.integers(0, 9))
def test_learning_chart_holds_for_any_points(title: str, points: list[CurvePoint], best: int) -> None:
    check(learning_chart(title, points, best_step=best))


@given(st.lists(st.builds(ReliabilityBin, wild, wild, st.integers(-3, 10**12)), max_size=12))
def test_reliability_chart_holds_for_any_bins(bins: list[ReliabilityBin]) -> None:
    check(reliability_chart("title", bins))


def test_unknown_values_are_left_out_not_drawn() -> None:
    nan, inf = float("nan"), float("inf")
    check(interval_chart("t", [IntervalRow("a", nan, nan, nan), IntervalRow("b", 1, -inf, inf, nan)]))
    check(throughput_chart("t", [Series("a", [(1, nan), (2, inf)])], x_label="", y_label=""))
    check(pareto_chart("t", [ParetoPoint("a", 1, nan, 0, 1, 5, True)], x_label="", y_label=""))


@pytest.mark.parametrize(
    "svg",
    [
        interval_chart(HOSTILE, [IntervalRow(HOSTILE, 1, 0, 2, 1)], unit=HOSTILE),
        throughput_chart(HOSTILE, [Series(HOSTILE, [(1, 2)])], x_label=HOSTILE, y_label=HOSTILE),
        pareto_chart(HOSTILE, [ParetoPoint(HOSTILE, 1, 2, 1, 3, 4, True)], x_label=HOSTILE, y_label=HOSTILE),
        confusion_chart(HOSTILE, [HOSTILE, "b"], [[1, 2], [3, 4]]),
        reliability_chart(HOSTILE, [ReliabilityBin(0.5, 0.5, 3)]),
    ],
)
def test_hostile_labels_stay_text(svg: str) -> None:
    root = check(svg)
    assert "<script" not in svg
    svg.encode()
    # The words may be shown; nothing may point anywhere.
    markup = re.sub(r">[^<]*<", "><", svg)
    assert markup.count("http") == 1
    assert "url(" not in markup
    assert root.find(f"{SVG}title").text.startswith("</text><script>")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "svg",
    [
        interval_chart("t", []),
        throughput_chart("t", [], x_label="", y_label=""),
        throughput_chart("t", [Series("a", [])], x_label="", y_label=""),
        pareto_chart("t", [], x_label="", y_label=""),
        confusion_chart("t", [], []),
        reliability_chart("t", []),
        learning_chart("t", []),
    ],
)
def test_an_empty_chart_says_so(svg: str) -> None:
    assert "Nothing was measured." in texts(check(svg))


def test_the_same_input_gives_the_same_picture() -> None:
    points = [ParetoPoint("a", 1, 2, 1, 3, 4), ParetoPoint("b", 1, 2, 1, 3, 4, True)]
    assert pareto_chart("t", points, x_label="x", y_label="y") == pareto_chart(
        "t", points, x_label="x", y_label="y"
    )


def test_interval_chart_writes_value_bound_and_where_the_axis_starts() -> None:
    row = IntervalRow("2-int8", 97.1, 95.2, 98.2, 95, False)
    words = " ".join(texts(check(interval_chart("Agreement", [row], unit="%"))))
    assert "97.1\u00a0% [95.2, 98.2]" in words
    assert "bound 95\u00a0%, not proven" in words
    assert "axis starts at 95" in words


def test_a_share_axis_does_not_pass_100_per_cent() -> None:
    row = IntervalRow("a", 99.7, 99.2, 100.0)
    assert "100.5" not in " ".join(texts(check(interval_chart("t", [row], unit="%"))))


def test_throughput_chart_draws_five_series_and_counts_the_others() -> None:
    svg = throughput_chart("t", [Series(f"s{i}", [(1, i), (2, i)]) for i in range(7)], x_label="x", y_label="y")
    root = check(svg)
    assert len(list(root.iter(f"{SVG}polyline"))) == 5
    assert "2 more in the table" in texts(root)


def test_throughput_axis_starts_at_zero_and_doubles() -> None:
    root = check(throughput_chart("t", [Series("a", [(1, 100), (4, 110), (32, 120)])], x_label="x", y_label="y"))
    assert {"0", "1", "4", "32"} <= set(texts(root))
    xs = [float(c.get("cx", "")) for c in root.iter(f"{SVG}circle")]
    assert (xs[1] - xs[0]) / (xs[2] - xs[0]) == pytest.approx(2 / 5, abs=1e-3)


def test_end_labels_keep_apart() -> None:
    series = [Series(f"s{i}", [(1, 100 + i), (2, 100 + i)]) for i in range(5)]
    root = check(throughput_chart("t", series, x_label="x", y_label="y"))
    ys = sorted(float(t.get("y", "")) for t in root.iter(f"{SVG}text") if (t.text or "").startswith("s"))
    assert all(after - before >= 16.9 for before, after in pairwise(ys))


def test_pareto_rings_the_chosen_and_fades_the_dominated() -> None:
    points = [
        ParetoPoint("fast", 1, 0.9, 0.89, 0.91, 10, True),
        ParetoPoint("good", 3, 0.95, 0.94, 0.96, 40),
        ParetoPoint("worse", 4, 0.9, 0.89, 0.91, 40),
    ]
    assert dominated(points) == [False, False, True]
    root = check(pareto_chart("t", points, x_label="ms", y_label="accuracy"))
    assert len([c for c in root.iter(f"{SVG}circle") if c.get("class") == "plot-ring"]) == 1
    assert len([g for g in root.iter(f"{SVG}g") if g.get("opacity") == "0.6"]) == 1
    assert {"fast", "good", "worse"} <= set(texts(root))


def test_pareto_rings_what_passes_and_fades_what_it_is_told_to() -> None:
    points = [
        ParetoPoint("fast", 0.1, 0.9, 0.89, 0.91, 10, is_ringed=False, is_faint=False),
        ParetoPoint("chosen", 3, 0.95, 0.94, 0.96, 40, True, is_ringed=True, is_faint=False),
        ParetoPoint("small", 4, 0.95, 0.9, 0.96, 4, is_ringed=True, is_faint=False),
        ParetoPoint("beaten", 5, 0.9, 0.89, 0.91, 40, is_ringed=False, is_faint=True),
    ]
    root = check(pareto_chart("t", points, x_label="ms", y_label="a", legend="ring: passes", is_x_log=True))
    assert len([c for c in root.iter(f"{SVG}circle") if c.get("class") == "plot-ring"]) == 2
    assert len([g for g in root.iter(f"{SVG}g") if g.get("opacity") == "0.6"]) == 1
    assert {"ms (logarithmic)", "ring: passes", "0.1", "5"} <= set(texts(root))


def test_pareto_labels_keep_off_the_intervals() -> None:
    root = check(pareto_chart("t", [ParetoPoint("a label", 1, 50, 20, 80, 1)], x_label="x", y_label="y"))
    upright = [line for line in root.iter(f"{SVG}line") if line.get("x1") == line.get("x2")]
    bar = next(line for line in upright if line.get("stroke-width"))
    label = next(text for text in root.iter(f"{SVG}text") if text.text == "a label")
    left = float(label.get("x", ""))
    assert not left < float(bar.get("x1", "")) < left + text_width("a label")


def test_learning_chart_names_the_weights_that_were_kept() -> None:
    points = [CurvePoint(10, 1, 0.9, 0.80), CurvePoint(20, 2, 0.5, 0.91), CurvePoint(30, 3, float("nan"), 0.90)]
    root = check(learning_chart("t", points, best_step=20))
    assert "kept: 0.9100" in texts(root)
    assert len([c for c in root.iter(f"{SVG}circle") if c.get("class") == "plot-ring"]) == 1
    # Three scores, two losses, and the ring.
    assert len(list(root.iter(f"{SVG}circle"))) == 6


def test_pareto_area_is_in_proportion_to_size() -> None:
    points = [ParetoPoint("a", 1, 1, 1, 1, 100), ParetoPoint("b", 2, 2, 2, 2, 25)]
    root = check(pareto_chart("t", points, x_label="x", y_label="y"))
    radii = [float(circle.get("r", "")) for circle in root.iter(f"{SVG}circle")]
    assert radii[0] / radii[1] == pytest.approx(2)


def test_confusion_writes_numbers_up_to_twenty_labels_only() -> None:
    small, large = 20, 21
    names = [f"label {i}" for i in range(large)]
    matrix = [[777 if i == j else 0 for j in range(large)] for i in range(large)]
    assert texts(check(confusion_chart("t", names[:small], matrix))).count("777") == small
    assert "777" not in texts(check(confusion_chart("t", names, matrix)))


def test_texts_stay_inside_the_picture() -> None:
    rows = [IntervalRow("a label so long that it cannot stand beside its numbers " * 2, 0.5, 0.4, 0.6)]
    root = check(interval_chart("title " * 60, rows))
    for element in root.iter(f"{SVG}text"):
        size = float(element.get("font-size") or 13)
        start = float(element.get("x", "")) if element.get("text-anchor") is None else 0
        assert start + text_width(element.text or "", size) <= WIDTH + 1


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=12))
def test_a_scale_covers_its_values(values: list[float]) -> None:
    scale = linear_scale(values).between(0, 100)
    slack = 1e-9 * max(map(abs, values))
    assert scale.low <= min(values) + slack
    assert max(values) - slack <= scale.high
    assert all(0 <= scale(value) <= 100 for value in values)
    assert 2 <= len(scale.ticks) <= 9


def test_log2_scale_is_for_powers_of_two_only() -> None:
    assert log2_scale([1, 2, 32]) is not None
    assert log2_scale([1, 3]) is None
    assert log2_scale([4, 4]) is None
    assert log2_scale([0, 2]) is None


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=8))
def test_log_scale_covers_its_values(values: list[float]) -> None:
    scale = log_scale(values)
    assert scale is not None
    assert scale.low <= min(values) * (1 + 1e-6)
    assert max(values) <= scale.high * (1 + 1e-6)
    assert scale.low < scale.high
    assert [scale.label(tick) for tick in scale.ticks]
    assert not scale.has_break


def test_log_scale_ticks_read_as_their_values() -> None:
    scale = log_scale([0.06, 8.0])
    assert scale is not None
    assert [scale.label(tick) for tick in scale.ticks] == ["0.05", "0.1", "0.2", "0.5", "1", "2", "5", "10"]
    assert log_scale([0.0, 1.0]) is None
    assert log_scale([]) is None


@given(st.lists(st.floats(-50, 150), max_size=8))
def test_spread_keeps_order_distance_and_range(wanted: list[float]) -> None:
    places = spread(wanted, 10, 0, 100)
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in places)
    ordered = sorted(places)
    assert all(after - before >= 10 - 1e-6 for before, after in pairwise(ordered))


def test_free_place_avoids_what_is_taken() -> None:
    area, taken = Box(0, 0, 100, 100), [Box(0, 0, 50, 50)]
    assert free_place([Box(10, 10, 20, 20), Box(90, 0, 110, 10), Box(60, 0, 70, 10)], taken, area) == Box(
        60, 0, 70, 10
    )
    assert free_place([Box(10, 10, 20, 20)], taken, area) is None


@given(st.text(max_size=60), st.floats(20, 200))
def test_fitted_words_fit(words: str, width: float) -> None:
    assert text_width(fit(words, width)) <= width
    assert text_width(fit_middle(words, width)) <= width + 1e-9
