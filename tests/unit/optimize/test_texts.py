from __future__ import annotations

import json
from pathlib import Path

import pytest

from tremplin.errors import OptimizeFailed
from tremplin.optimize.texts import bundled_texts, texts_from


def test_calibration_and_evaluation_are_disjoint() -> None:
    texts = bundled_texts()
    assert len(texts.calibration) >= 200
    assert len(texts.evaluation) >= 500
    assert not set(texts.calibration) & set(texts.evaluation)


def test_the_split_follows_the_seed() -> None:
    assert bundled_texts(seed=1) == bundled_texts(seed=1)
    assert bundled_texts(seed=1).calibration != bundled_texts(seed=2).calibration
    assert bundled_texts(seed=1).sha256 == bundled_texts(seed=2).sha256


def test_own_texts_keep_their_labels_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"text {i}", "label": f"l{i}"}) for i in range(100)))
    texts = texts_from(path)
    assert [label.removeprefix("l") for label in texts.labels] == [
        text.removeprefix("text ") for text in texts.evaluation
    ]


def test_plain_lines_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "own.txt"
    path.write_text("\n\n".join(f"line {i}" for i in range(60)))
    texts = texts_from(path)
    assert len(texts.calibration) + len(texts.evaluation) == 60
    assert texts.labels == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("few.txt", b"one\ntwo\n", "at least 40"),
        ("bad.jsonl", b'{"txt": "x"}\n' * 60, "line 1"),
        ("bad.jsonl", b"[1]\n" * 60, "line 1"),
        ("latin.txt", b"caf\xe9\n" * 60, "UTF-8"),
    ],
)
def test_bad_files_say_what_was_expected(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(OptimizeFailed, match=message):
        texts_from(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptimizeFailed, match=r"nothing\.txt"):
        texts_from(tmp_path / "nothing.txt")
