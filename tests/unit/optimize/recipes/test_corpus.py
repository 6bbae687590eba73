"""Files become a corpus: nothing is in two parts, what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tremplin.errors import OptimizeFailed, TrainingRefused
from tremplin.optimize.head.split import normalised
from tremplin.optimize.recipes.corpus import read_corpus, read_text_corpus
from tremplin.optimize.recipes.pair_file import read_pairs
from tremplin.optimize.recipes.search_set import ndcg_at_10, read_search_set
from tremplin.optimize.recipes.token_file import read_labelled_words, token_targets
from tremplin.optimize.training.objectives import IGNORED


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def labelled(start: int, stop: int) -> list[object]:
    return [{"text": f"text number {n}", "label": "ab"[n % 2]} for n in range(start, stop)]


def texts_of(*parts: object) -> list[set[str]]:
    return [{normalised(text) for text in part.texts} for part in parts]  # type: ignore[attr-defined]


def test_parts_that_are_not_given_are_split_off(tmp_path: Path) -> None:
    corpus = read_corpus(write(tmp_path / "t.jsonl", labelled(0, 200)))
    parts = texts_of(corpus.train, corpus.validation, corpus.test)
    assert sum(map(len, parts)) == 200
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert corpus.labels == ("a", "b")


def test_what_leaks_from_one_part_into_another_leaves_with_a_note(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", [*labelled(0, 100), {"text": "Text number 150!", "label": "a"}])
    corpus = read_corpus(
        train,
        validation=write(tmp_path / "v.jsonl", labelled(90, 130)),
        test=write(tmp_path / "e.jsonl", labelled(120, 160)),
    )
    parts = texts_of(corpus.train, corpus.validation, corpus.test)
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert len(corpus.test) == 40
    assert corpus.notes == (
        "10 validation rows are also in e.jsonl; they were left out.",
        "10 training rows are also in v.jsonl; they were left out.",
        "1 training rows are also in e.jsonl; they were left out.",
    )


def test_a_label_that_training_never_saw_is_refused(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", labelled(0, 100))
    test = write(tmp_path / "e.jsonl", [{"text": "x", "label": "c"}])
    with pytest.raises(TrainingRefused, match="1 labels are not in t"):
        read_corpus(train, test=test)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"text": f"t{n}", "label": "a"} for n in range(50)], "all 50 rows have the same label"),
        (labelled(0, 3), "fewer than 5"),
    ],
)
def test_too_few_labels_or_texts_are_refused(tmp_path: Path, rows: list[object], says: str) -> None:
    with pytest.raises(TrainingRefused, match=says):
        read_corpus(write(tmp_path / "t.jsonl", rows))


def test_the_same_files_have_the_same_digest(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", labelled(0, 100))
    assert read_corpus(train).sha256 == read_corpus(train).sha256
    assert read_corpus(train).sha256 != read_corpus(train, seed=1).sha256


def test_texts_without_labels_are_divided_too(tmp_path: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("\n".join(f"text {n % 400}" for n in range(800)))
    corpus = read_text_corpus(file)
    parts = texts_of(corpus.train, corpus.validation, corpus.test)
    assert [len(part) for part in parts] == [300, 50, 50]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    file.write_text("one\ntwo\n")
    with pytest.raises(TrainingRefused, match="2 different texts; at least 200"):
        read_text_corpus(file)


def test_pairs_are_read_and_a_tenth_held_out(tmp_path: Path) -> None:
    pairs = read_pairs(write(tmp_path / "p.jsonl", [{"query": f"q{n}", "positive": f"p{n}"} for n in range(50)]))
    assert (len(pairs.train), len(pairs.held_out)) == (45, 5)
    assert not set(pairs.train) & set(pairs.held_out)
    with pytest.raises(TrainingRefused, match="line 2"):
        read_pairs(write(tmp_path / "b.jsonl", [{"query": "q", "positive": "p"}, {"query": "q"}]))
    with pytest.raises(TrainingRefused, match="holds 3 pairs; at least 16"):
        read_pairs(write(tmp_path / "f.jsonl", [{"query": "q", "positive": "p"}] * 3))


def test_words_are_read_with_their_labels(tmp_path: Path) -> None:
    rows: list[object] = [{"words": ["Ada", "met", "Max"], "labels": ["PER", "O", "PER"]}] * 30
    data = read_labelled_words(write(tmp_path / "w.jsonl", rows))
    assert data.label_names == ("O", "PER")
    assert [len(part.words) for part in data.split(seed=0)] == [21, 5, 4]
    with pytest.raises(TrainingRefused, match="line 31"):
        read_labelled_words(write(tmp_path / "b.jsonl", [*rows, {"words": ["a"], "labels": []}]))


def test_only_the_first_piece_of_a_word_is_judged() -> None:
    assert token_targets([None, 0, 0, 1, None], ["B", "O"], ["O", "B"]) == [IGNORED, 1, IGNORED, 0, IGNORED]


def test_ndcg_is_what_the_formula_says() -> None:
    passages = np.eye(12, dtype=np.float32)
    query = np.linspace(1, 0.1, 12, dtype=np.float32)[None]  # passage 0 is nearest, then 1, ...
    assert ndcg_at_10(query, passages, [frozenset({0})])[0] == 1
    assert ndcg_at_10(query, passages, [frozenset({2})])[0] == pytest.approx(0.5)
    assert ndcg_at_10(query, passages, [frozenset({11})])[0] == 0
    both = ndcg_at_10(query, passages, [frozenset({0, 2})])[0]
    assert both == pytest.approx((1 + 0.5) / (1 + 1 / np.log2(3)))


def test_a_search_set_names_what_is_missing(tmp_path: Path) -> None:
    passages = write(tmp_path / "p.jsonl", [{"id": 1, "title": "T", "text": "a"}, {"id": "2", "text": "b"}])
    queries = write(tmp_path / "q.jsonl", [{"text": "x", "relevant": ["1"]}, {"text": "y", "relevant": []}])
    found = read_search_set(queries, passages)
    assert (found.queries, found.passages, found.relevant) == (("x",), ("T a", "b"), (frozenset({0}),))
    with pytest.raises(OptimizeFailed, match="no passage '3'"):
        read_search_set(write(tmp_path / "b.jsonl", [{"text": "x", "relevant": ["3"]}]), passages)
