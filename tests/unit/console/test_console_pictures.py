from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from console_standin import EMBEDDING, encoder_quality, publish

from tremplin.console.i18n import LANGUAGES, language
from tremplin.console.models import model_page, version_page
from tremplin.console.pictures import CHART_PHRASES, difference, in_language, metric_text
from tremplin.console.view import ConsoleView
from tremplin.registry.passport import extreme_metric
from tremplin.registry.store import Registry

NBSP = "\u00a0"


def drawn(view: ConsoleView, code: str) -> list[str]:
    t = language(code)
    pages = [
        page
        for model in view.registry.models()
        for page in (
            model_page(view.registry, view.live(), model, "/console", t),
            *(
                version_page(view.registry, view.live(), manifest, "/console", t)
                for manifest in view.registry.versions(model)
            ),
        )
    ]
    plots = [plot for page in pages for plot in page.plots]
    return [plot.svg for plot in plots] + [page.pareto.svg for page in pages if getattr(page, "pareto", None)]


@pytest.mark.parametrize("code", LANGUAGES)
def test_pictures_are_well_formed_and_obey_the_content_policy(view: ConsoleView, code: str) -> None:
    pictures = drawn(view, code)
    assert len(pictures) > 8
    for picture in pictures:
        ET.fromstring(picture)  # raises when not well formed
        assert not re.search(r"<script|<style|\sstyle=|\son\w+=|href=", picture)


def test_french_pictures_hold_no_english(view: ConsoleView) -> None:
    for picture in drawn(view, "fr"):
        words = " ".join(re.findall(r">([^<]+)<", picture))
        assert not [phrase for phrase in CHART_PHRASES if phrase in words], words
        assert not re.search(r"\b(the|and|is|at|not|more|starts|interval \[)\b", words), words


def test_only_numbers_get_a_decimal_comma() -> None:
    svg = (
        "<svg><text>0.995 [0.993, 0.997]</text><text>1.2-int8</text><text>1.2</text>"
        "<text>bound 0.97, not proven</text></svg>"
    )
    french = in_language(svg, language("fr"), ["1.2"])
    assert "0,995 [0,993, 0,997]" in french
    assert ">1.2-int8<" in french
    assert ">1.2<" in french
    assert "borne 0,97, non prouvée" in french
    assert in_language(svg, language("en")) == svg


@pytest.mark.parametrize(
    ("value", "expected"), [(26.0, f"−74{NBSP}%"), (288.0, f"+188{NBSP}%"), (103.0, "about the same")]
)
def test_a_difference_within_noise_is_called_so(value: float, expected: str) -> None:
    assert difference(value, 100.0, language("en")) == expected


def test_the_fastest_proven_version_is_recommended(view: ConsoleView) -> None:
    page = model_page(view.registry, view.live(), "minilm", "/console", language("en"))
    assert page.recommendation is not None
    assert page.recommendation.version == "2-int8"  # 3-int4 is faster and misses its bounds
    assert page.recommendation.times_faster == pytest.approx(9.8 / 3.4)
    assert page.metrics[0].name == "cosine_mean"
    assert page.metrics[0].cells[2] is not None
    assert page.metrics[0].cells[2].state == "broken"


def test_the_reference_needs_no_measurement(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    imported = dataclasses.replace(
        encoder_quality(1.0), metrics=(extreme_metric("parity_difference_max", 3.5e-7, 24),), bounds=()
    )
    compared = dataclasses.replace(encoder_quality(0.9968), reference="minilm@1-fp32")
    publish(registry, tmp_path, "minilm", "1-fp32", EMBEDDING, "hub", 90_400_000, 9.8, imported)
    publish(registry, tmp_path, "minilm", "2-int8", EMBEDDING, "minilm@1-fp32", 23_100_000, 3.4, compared)
    page = model_page(registry, (), "minilm", "/console", language("en"))
    agreement = next(row for row in page.metrics if row.name == "retrieval_agreement")
    assert agreement.cells[0] is not None
    assert agreement.cells[0].state == "reference"
    assert metric_text(agreement, agreement.cells[0], language("en")) == "reference"
    assert page.pareto is not None
    assert page.metrics[-1].name == "parity_difference_max"  # what only one version has comes last
