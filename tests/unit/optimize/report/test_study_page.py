"""The report of a study: what it says, that it needs nothing but itself, and that it escapes what users wrote."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from study_samples import (
    BROKEN,
    COMMAND,
    HOSTILE,
    MACHINE,
    NOTES,
    bare_document,
    encoder_document,
    study_document,
    write_run,
)

from tremplin.errors import BadInput
from tremplin.optimize.report.page import style_source
from tremplin.optimize.report.study_file import StudyFile, read_study
from tremplin.optimize.report.study_findings import (
    broken_classes,
    chosen_of,
    headline,
    losing,
    remarks,
    verdict_in_words,
)
from tremplin.optimize.report.study_page import study_context, study_page, write_study_report
from tremplin.optimize.report.study_steps import ZEROS_ONLY_COMPRESS, facts_in_words, steps_of, worked_seconds

VOID = {"meta", "br", "hr"}


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
        self.text = re.sub(r"\s+", " ", self.text.replace("\u202f", " "))

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
            self.text += data


def study_of(tmp_path: Path, document: dict[str, Any] | None = None) -> StudyFile:
    return read_study(write_run(tmp_path, document))


@pytest.fixture
def study(tmp_path: Path) -> StudyFile:
    return study_of(tmp_path)


@pytest.fixture
def bare(tmp_path: Path) -> StudyFile:
    return study_of(tmp_path, bare_document())


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\u202f", " "))


# -- the page --------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_but_itself(tmp_path: Path) -> None:
    out = tmp_path / "out" / "study.html"
    write_study_report(write_run(tmp_path / "runs"), out)
    html = out.read_text("utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.seen}.isdisjoint({"script", "link", "img", "iframe", "object", "image", "use"})
    for tag, attributes in page.seen:
        assert set(attributes).isdisjoint({"style", "src", "href", "xlink:href", "action"}), tag
        assert not [name for name in attributes if name.startswith("on")]
    assert set(re.findall(r"https?://[^\s\"'<]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "url(" not in html
    assert "@import" not in html
    policies = [a["content"] for _, a in page.seen if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [f"default-src 'none'; style-src {style_source()}"]


def test_every_picture_is_valid_xml(study: StudyFile) -> None:
    pictures = re.findall(r"<svg .*?</svg>", study_page(study), re.DOTALL)
    # The front, the losses, confusions and calibrations of three versions, three training steps.
    assert len(pictures) == 11
    for picture in pictures:
        root = ET.fromstring(picture)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("role") == "img"
        assert "nan" not in {value for element in root.iter() for value in element.attrib.values()}


def test_the_title_is_the_finding(study: StudyFile) -> None:
    page = Page(study_page(study))
    finding = "balanced is 4.1 times faster at 8.21 MB and loses 0.23 points (at most 0.44)"
    assert plain(headline(study)) == finding
    assert finding in page.text.split("Tremplin study banking")[0]


@pytest.mark.parametrize(
    "sentence",
    [
        "It is 11 times smaller than the reference. In batches it is 5.3 times faster.",
        f"1 version of 2 must not replace the reference: tiny ({BROKEN} broken).",
        "Losses are of right answers on the same 3 072 test texts of banking.csv, in percentage points",
        "0.6 points are allowed.",
        "3 rounds on AMD EPYC 9354 32-Core Processor, 1 thread; it holds for this machine only.",
        "1 recipe could not be worked: static-8.",
        # the front
        "3 of 3 versions are on the front: balanced answers in 2.2 ms with 8.21 MB",
        "✓ passes", "✗ 1 class broken", "tiny (fails)",
        "in accuracy, latency, rate, memory and size",
        # losses
        "1 of 2 is proven to lose at most 0.6 points on average", "0.23 points [0.09, 0.44]",
        f"'{BROKEN}' is broken: 87 of 192 rows lost and 0 gained, 45.3 points where 10 are tolerated",
        "language fr",
        "balanced: 6 of 16 classes lose, 10 stay as they are; none is proven broken",
        "tiny: 16 of 16 classes lose; 1 class broken",
        f"tiny: most often {BROKEN} is read as card_arrival",
        # versions
        "Out of scope AUROC", "Answers flipped by batch", "Expected calibration error", "Latency p99",
        "5.3× [5.3, 5.4]", "96.4 MB", "banking@2-balanced-int8",
        # curves
        "fine-tune for all versions: best score 0.9450 after 3 of 3 epochs",
        "distil for balanced: best score 0.9445 after 3 of 4 epochs",
        "540 steps in 10.2 min, stopped early",
        # steps
        "Layers 1, 3, 4 and 6 kept", "49.7 % of the layers’ weights kept", "10 000 words of the vocabulary kept",
        "1.2 % of the validation texts are cut into other tokens than before, 9.4 % of those out of scope",
        "50.0 % of the weights are 0, 13.1 MB compressed instead of 20.4 MB", "wonder 0.250",
        "worked for reference", "Steps, 19.1 min of work in all",
        # recipe, environment, command
        "avx2 fma avx512_vnni", "training 2, race 1", "keep: 4",
        "torch 2.13.0", "python 3.11.9", "2026-03-02", "e3b0c44298fc1c149afbf4c8996fb924",
        "8 611 to learn from, 1 519 to choose on, 3 072 to test on, 900 out of scope",
        COMMAND, "tremplin report --run banking",
        # failures and notes
        "a width of 8 cannot hold 16 labels", *NOTES,
    ],
)  # fmt: skip
def test_the_page_says(study: StudyFile, sentence: str) -> None:
    assert sentence in Page(study_page(study)).text


def test_zeros_are_not_sold_as_speed(study: StudyFile) -> None:
    assert ZEROS_ONLY_COMPRESS in Page(study_page(study)).text


def test_labels_and_messages_are_escaped(tmp_path: Path) -> None:
    document = study_document()
    hostile = "<script>alert('x')</script>"
    document["failures"][0] = {"name": hostile, "reason": hostile}
    document["corpus"] |= {"name": hostile, "notes": [hostile]}
    document["environment"]["machine"] = hostile
    document["entries"][1] |= {"recipe": hostile, "facts": {hostile: hostile}, "published": hostile}
    document["entries"][2]["lineage"][0] |= {"step": hostile, "notes": [hostile]}
    html = study_page(study_of(tmp_path, document))
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;b&gt;lost&lt;/b&gt;" in html
    assert HOSTILE in Page(html).text


def test_a_study_with_nothing_but_the_figures_has_a_page(bare: StudyFile) -> None:
    page = Page(study_page(bare))
    for sentence in (
        "balanced is 4.1 times faster",
        "the machine was not recorded",
        "not recorded",
        f"tiny ({BROKEN} broken)",
        # The facts find their steps by their names.
        "Layers 1, 3, 4 and 6 kept",
        "distil for balanced: best score 0.9445",
    ):
        assert sentence in page.text


def test_a_machine_may_be_told_in_fields(tmp_path: Path) -> None:
    document = study_document()
    document["environment"] |= {"machine": MACHINE, "threads": 2}
    text = Page(study_page(study_of(tmp_path, document))).text
    assert "on AMD EPYC 9354 32-Core Processor, 2 threads;" in text
    assert "2, from the cgroup quota" in text


def test_a_study_of_encoders_speaks_of_search(tmp_path: Path) -> None:
    text = Page(study_page(study_of(tmp_path, encoder_document()))).text
    assert "Losses are of nDCG at 10 on the same 900 queries, in percentage points" in text
    assert "in nDCG at 10, latency, rate, memory and size" in text
    assert "70.5 ± 1.1 %" in text or "70.6 ± 1.1 %" in text
    assert "Cosine mean" in text
    # Nothing is compared by class, and no loss is shown as if it were a metric.
    assert "Where each version errs" not in text
    assert "nDCG loss" not in text


def test_tables_are_rectangular(study: StudyFile) -> None:
    context = study_context(study)
    figures = [context.front, context.losses, *context.curves, *(f for e in context.errors for f in e.figures)]
    tables = [
        context.versions, context.slices, context.steps, context.environment,
        *(errors.classes for errors in context.errors), *(figure.table for figure in figures if figure),
    ]  # fmt: skip
    for table in tables:
        if table is not None:
            assert table.caption
            assert {len(row.cells) for row in table.rows if not row.is_group} == {len(table.head)}


def test_the_same_study_gives_the_same_page(study: StudyFile) -> None:
    assert study_page(study) == study_page(study)


# -- the findings ----------------------------------------------------------------------------------------


def test_broken_classes_come_first_and_classes_without_a_loss_are_counted(study: StudyFile) -> None:
    tiny, balanced = study.entry("tiny"), study.entry("balanced")
    assert [part.name for part in broken_classes(tiny)] == [BROKEN]
    assert losing(tiny)[0].name == BROKEN
    assert verdict_in_words(tiny) == "✗ 1 class broken"
    points = [part.points for part in losing(balanced)]
    assert points == sorted(points, reverse=True)
    assert len(points) == 6 < len(balanced.classes)
    table = next(errors.classes for errors in study_context(study).errors if errors.name == "tiny")
    assert table is not None
    assert table.rows[0].cells[0].note == "✗ broken"
    assert [row.cells[0].note for row in table.rows[1:]] == [""] * (len(table.rows) - 1)


def test_a_broken_class_is_named_by_the_study_when_it_says_so(tmp_path: Path) -> None:
    document = study_document()
    document["entries"][2] |= {"broken_classes": ["card_arrival"], "broken_slices": ["language fr"]}
    tiny = study_of(tmp_path, document).entry("tiny")
    assert [part.name for part in broken_classes(tiny)] == ["card_arrival"]
    assert verdict_in_words(tiny) == "✗ 1 class and 1 slice broken"


def test_a_fast_version_that_fails_is_not_chosen(study: StudyFile) -> None:
    chosen = chosen_of(study)
    assert chosen is not None
    assert chosen.name == "balanced"
    assert study.entry("tiny").speed.p50_ms < chosen.speed.p50_ms  # type: ignore[union-attr]


def test_an_objective_chooses_and_says_why(tmp_path: Path) -> None:
    document = study_document() | {"chosen": "reference", "choice": "reference meets p95<=20ms at the least cost"}
    study = study_of(tmp_path, document)
    assert headline(study).startswith("The reference itself is picked")
    assert remarks(study)[0] == "reference meets p95<=20ms at the least cost."


def test_when_nothing_passes_the_nearest_is_named(tmp_path: Path) -> None:
    document = study_document()
    document["entries"][1] |= {"passes": False, "reasons": ["it may lose 0.43 points"]}
    document["allowed_points"] = 0.1
    study = study_of(tmp_path, document)
    assert plain(headline(study)).startswith(
        "No version is proven to lose at most 0.1 points; the nearest, balanced"
    )
    assert "None is proven to lose at most 0.1 points" in Page(study_page(study)).text
    assert verdict_in_words(study.entry("balanced")) == "✗ not proven"


def test_a_reference_alone_has_a_page(tmp_path: Path) -> None:
    document = study_document()
    document["entries"] = document["entries"][:1]
    study = study_of(tmp_path, document)
    assert headline(study).startswith("The study holds only its reference: 91.0")
    Page(study_page(study))


def test_a_version_without_speed_curves_or_evidence_has_a_page(tmp_path: Path) -> None:
    document = study_document()
    for entry in document["entries"]:
        entry |= {"speed": None, "faster_alone": None, "faster_batched": None, "curves": [], "report": {}}
    text = Page(study_page(study_of(tmp_path, document))).text
    assert "Speed was not measured." in text
    assert "not measured" in text


def test_evidence_in_another_form_is_left_out(tmp_path: Path) -> None:
    document = study_document()
    document["entries"][1]["report"] |= {"confusion": {"labels": 3}, "calibration": "good"}
    text = Page(study_page(study_of(tmp_path, document))).text
    assert "The evidence holds “confusion” in a form this release cannot read" in text
    assert "The evidence holds “calibration” in a form this release cannot read" in text


def test_without_the_matrix_the_commonest_pairs_remain(tmp_path: Path) -> None:
    document = study_document()
    for entry in document["entries"]:
        del entry["report"]["confusion"]
    context = study_context(study_of(tmp_path, document))
    tiny = next(errors for errors in context.errors if errors.name == "tiny")
    assert tiny.figures[0].svg == ""
    assert [cell.text for cell in tiny.figures[0].table.rows[0].cells][:2] == [BROKEN, "card_arrival"]


# -- steps and facts -------------------------------------------------------------------------------------


def test_facts_find_their_steps(bare: StudyFile) -> None:
    told = {record.step: facts_in_words(record.facts) for record in steps_of(bare.entry("balanced"))}
    assert told["drop-layers(keep=4)"] == "layers 1, 3, 4 and 6 kept"
    assert told["prune"].startswith("49.7")
    assert told["sparsify"].endswith(ZEROS_ONLY_COMPRESS)
    assert "in all" not in told
    assert list(told) == list(bare.entry("balanced").steps)


def test_what_joins_two_versions_is_a_step_of_its_own(tmp_path: Path) -> None:
    document = study_document()
    joined = document["entries"][1]
    joined["steps"].append("cascade(first=tiny, threshold=0.870)")
    joined["facts"] |= {"threshold": 0.87, "escalated_test": 0.13}
    *before, last = steps_of(study_of(tmp_path, document).entry("balanced"))
    assert (last.step, last.seconds) == ("cascade(first=tiny, threshold=0.870)", None)
    assert last.facts == {"threshold": 0.87, "escalated_test": 0.13}
    assert [record.step for record in before] == joined["steps"][:-1]


def test_steps_that_versions_share_are_counted_once(study: StudyFile) -> None:
    alone = [sum(record.seconds or 0 for record in steps_of(entry)) for entry in study.entries]
    assert worked_seconds(study.entries) == pytest.approx(sum(alone) - 2 * 384.2)


def test_facts_of_another_form_are_shown_as_they_are() -> None:
    assert facts_in_words({"layers": None, "new_fact": [1]}) == "layers None; new fact [1]"
    assert facts_in_words({"threshold": 0.875, "escalated_test": 0.13}).startswith("the first answers when")
    assert facts_in_words({}) == ""


# -- runs without a study --------------------------------------------------------------------------------


def test_a_run_that_is_not_there_or_not_done_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no run 'nothing'"):
        read_study(tmp_path / "nothing")
    folder = write_run(tmp_path)
    (folder / "study.json").unlink()
    with pytest.raises(BadInput, match="has done before its end"):
        read_study(folder)
    with pytest.raises(BadInput, match="there are banking"):
        read_study(tmp_path / "nothing")


@pytest.mark.parametrize("content", ["{", "[]", '{"entries": []}', '{"entries": [{"name": "x"}]}'])
def test_a_damaged_study_says_what_to_do(tmp_path: Path, content: str) -> None:
    folder = write_run(tmp_path)
    (folder / "study.json").write_text(content)
    with pytest.raises(BadInput, match="study's command again"):
        read_study(folder)


def test_numbers_that_are_none_do_not_break_the_page(tmp_path: Path) -> None:
    document = study_document()
    document["entries"][1]["metrics"][3]["value"] = float("nan")
    document["entries"][1]["curves"][0]["points"][0]["loss"] = float("nan")
    study = study_of(tmp_path, json.loads(json.dumps(document)))
    Page(study_page(study))
