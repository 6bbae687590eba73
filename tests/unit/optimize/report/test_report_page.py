from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report_samples import classifier_versions, embedding_versions

from tremplin.optimize.report.evidence import HeadReport
from tremplin.optimize.report.page import report_context, report_page, style_source
from tremplin.optimize.report.wording import read_as, shown_value
from tremplin.registry.manifest import Manifest
from tremplin.registry.passport import Speed

COMMAND = "tremplin report support --html report.html"
VOID = {"meta", "link", "br", "img", "input", "hr"}

Sample = tuple[list[Manifest], dict[str, list[Speed]]]


class Page(HTMLParser):
    """Reads a page strictly: every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data.replace("\u00a0", " ").replace("\u202f", " ")


@pytest.fixture(params=[embedding_versions, classifier_versions], ids=["embedding", "classifier"])
def sample(request: pytest.FixtureRequest) -> Sample:
    return request.param()  # type: ignore[no-any-return]


def test_the_page_needs_nothing_but_itself(sample: Sample) -> None:
    html = report_page(*sample, command=COMMAND)
    page = Page(html)
    assert {tag for tag, _ in page.seen}.isdisjoint({"script", "link", "img", "iframe", "object", "image", "use"})
    for tag, attributes in page.seen:
        assert set(attributes).isdisjoint({"style", "src", "href", "xlink:href", "action"}), tag
        assert not [name for name in attributes if name.startswith("on")]
    outside = set(re.findall(r"https?://[^\s\"'<]+", html)) - {"http://www.w3.org/2000/svg"}
    assert outside == set()
    assert "url(" not in html
    assert "@import" not in html


def test_the_policy_allows_the_page_its_own_style_only(sample: Sample) -> None:
    html = report_page(*sample, command=COMMAND)
    policies = [a["content"] for tag, a in Page(html).seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [f"default-src 'none'; style-src {style_source()}"]
    assert html.count("<style>") == 1


def test_every_metric_and_verdict_is_there(sample: Sample) -> None:
    manifests, speeds = sample
    page = Page(report_page(manifests, speeds, command=COMMAND))
    for manifest in manifests:
        assert manifest.version in page.text
        assert manifest.origin.source in page.text
        assert manifest.quality.data_sha256 in page.text
        for metric in manifest.quality.metrics:
            if not metric.name.endswith("_reference"):
                assert read_as(metric.name).label in page.text
                assert shown_value(metric).replace("\u00a0", " ") in page.text
    assert "✓ holds" in page.text
    assert COMMAND in page.text
    assert "2, from the cgroup quota" in page.text
    assert "avx512_vnni" in page.text


def test_key_sentences_of_the_classifier() -> None:
    page = Page(report_page(*classifier_versions(), command=COMMAND))
    for sentence in (
        "2-int8 is 3.8 times smaller and 2.5 times faster than 1-fp32 and keeps 99.9 % of its accuracy",
        "Both of its bounds hold.",
        "Speed was measured on AMD EPYC 9354 32-Core Processor, 2 threads, onnxruntime-cpu",
        "✗ 1 of 2 bounds not met",
        "? no bound declared",
        "Label agreement is not proven: the low end of the interval, 96.16 %, is not at least 97 %",
        "The commonest confusion: refund read as billing_question (14 texts)",
        "Confidence is off by 2.7 points on average",
        "Texts of 16 tokens: 3-student-int8 reaches 845 texts/s, 4.4 times faster than 1-fp32",
        "Where 1-fp32 errs",
    ):
        assert sentence in re.sub(r"\s+", " ", page.text), sentence


def test_schemes_that_lost_say_why() -> None:
    page = Page(report_page(*embedding_versions(), command=COMMAND))
    for words in ("How 2-int8 came about", "dynamic-int8", "misses cosine_min", "fastest within its bounds"):
        assert words in page.text


def test_tables_are_rectangular_and_headed(sample: Sample) -> None:
    context = report_context(*sample, command=COMMAND)
    figures = [*context.quality, *context.throughput, *(f for e in context.evidence for f in e.figures)]
    tables = [
        *(figure.table for figure in figures),
        *context.comparisons,
        *context.environment,
        *context.lineage,
    ]
    assert context.versions is not None
    for table in [*tables, context.versions]:
        assert table.caption
        assert {len(row.cells) for row in table.rows if not row.is_group} <= {len(table.head)}


def test_hostile_names_are_escaped() -> None:
    manifests, speeds = embedding_versions()
    hostile = "<script>alert('x')</script>"
    quality = replace(manifests[1].quality, data=hostile, reference=hostile)
    bad = replace(manifests[1], quality=quality, report={"candidates": hostile, "classes": None})
    html = report_page([manifests[0], bad], speeds, command=hostile)
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert "cannot read" in html


def test_one_none_and_unmeasured_versions_have_a_page() -> None:
    manifests, speeds = embedding_versions()
    assert "There is no version to report on." in report_page([], {}, command=COMMAND)
    assert "1-fp32 takes 90.9" in Page(report_page(manifests[:1], speeds, command=COMMAND)).text
    assert "not measured" in Page(report_page(manifests, {}, command=COMMAND)).text
    bare = replace(manifests[0], quality=replace(manifests[0].quality, metrics=(), bounds=()), artefacts=())
    Page(report_page([bare], {}, command=COMMAND))
    Page(report_page([bare, manifests[1]], speeds, command=COMMAND))


def test_the_same_input_gives_the_same_page(sample: Sample) -> None:
    assert report_page(*sample, command=COMMAND) == report_page(*sample, command=COMMAND)


def test_evidence_defaults_to_nothing() -> None:
    assert HeadReport() == HeadReport((), None, None, (), ())
