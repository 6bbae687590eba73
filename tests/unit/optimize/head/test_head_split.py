"""The split: stratified, disjoint, seeded, and no text on two sides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tremplin.errors import TrainingRefused
from tremplin.optimize.head.dataset import LabelledTexts
from tremplin.optimize.head.split import fold_numbers, normalised, split, text_groups


def texts_of(rows, source="data.csv"):
    texts, labels = zip(*rows, strict=True)
    return LabelledTexts(source, texts, labels, tuple(sorted(set(labels))), "0" * 64)


@st.composite
def labelled(draw):
    """Texts of 2 to 5 labels with 3 to 30 different texts each, some repeated in another case."""
    rows = []
    for label in range(draw(st.integers(2, 5))):
        for i in range(draw(st.integers(3, 30))):
            rows.append((f"text {label} {i}", f"l{label}"))
            if draw(st.booleans()):
                rows.append((f"TEXT, {label}... {i}!", f"l{label}"))
    order = draw(st.permutations(rows))
    return texts_of(order)


@settings(max_examples=60, deadline=None)
@given(data=labelled(), seed=st.integers(0, 5))
def test_parts_are_disjoint_complete_stratified_and_without_leak(data, seed):
    parts = split(data, seed=seed)
    sides = (parts.train, parts.validation, parts.test)
    assert sorted(np.concatenate(sides).tolist()) == list(range(len(data)))
    for side in sides:
        assert {data.labels[row] for row in side} == set(data.label_names)
        assert (np.diff(side) > 0).all()
    seen = [{normalised(data.texts[row]) for row in side} for side in sides]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert parts.fitting.tolist() == sorted([*parts.train.tolist(), *parts.validation.tolist()])


@settings(max_examples=20, deadline=None)
@given(data=labelled(), seed=st.integers(0, 5))
def test_the_seed_decides(data, seed):
    first, again = split(data, seed=seed), split(data, seed=seed)
    assert first.test.tolist() == again.test.tolist()
    assert first.train.tolist() == again.train.tolist()


def test_another_seed_gives_another_split():
    data = texts_of([(f"a{i}", "x") for i in range(50)] + [(f"b{i}", "y") for i in range(50)])
    assert split(data, seed=0).test.tolist() != split(data, seed=1).test.tolist()


def test_shares_hold_within_each_label():
    data = texts_of([(f"a{i}", "x") for i in range(100)] + [(f"b{i}", "y") for i in range(20)])
    parts = split(data)
    counts = [
        [sum(data.labels[row] == label for row in side) for label in "xy"] for side in (parts.train, parts.test)
    ]
    assert counts == [[70, 14], [15, 3]]


@settings(max_examples=40, deadline=None)
@given(data=labelled(), seed=st.integers(0, 3))
def test_folds_keep_groups_whole_and_labels_spread(data, seed):
    groups, targets = text_groups(data.texts), data.targets()
    folds = fold_numbers(groups, targets, seed=seed)
    for group in np.unique(groups):
        assert len(set(folds[groups == group])) == 1
    for label in range(len(data.label_names)):
        own = targets == label
        per_fold = [len(np.unique(groups[own & (folds == fold)])) for fold in range(5)]
        assert max(per_fold) - min(per_fold) <= 1
    assert folds.tolist() == fold_numbers(groups, targets, seed=seed).tolist()


def test_rows_of_a_test_file_leave_training_with_a_note():
    data = texts_of([(f"a{i}", "x") for i in range(6)] + [(f"b{i}", "y") for i in range(6)], "train.csv")
    test = texts_of([("A0 !", "x"), ("b9", "y")], "test.csv")
    parts = split(data, test=test)
    assert parts.test.size == 0
    assert 0 not in parts.fitting
    assert len(parts.fitting) == 11
    assert parts.notes == ("1 training rows are also in test.csv; they were left out of training.",)


def test_a_label_that_cannot_be_in_each_part_is_refused():
    data = texts_of([(f"a{i}", "x") for i in range(6)] + [("b", "y"), ("B.", "y"), ("b!!", "y"), ("c", "y")])
    with pytest.raises(TrainingRefused, match=r"data\.csv: 1 labels have fewer than 3 texts .*'y'"):
        split(data)


def test_texts_that_differ_in_case_alone_with_two_labels_are_noted():
    data = texts_of([(f"a{i}", "x") for i in range(6)] + [(f"b{i}", "y") for i in range(6)] + [("A0", "y")])
    assert split(data).notes == ("1 texts differ in case or punctuation alone from one with another label.",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where is my CARD?", "whereismycard"),
        ("Straße", "strasse"),
        ("ﬁne", "fine"),
        ("c++ 5 €", "c++5€"),
        ("?!", "?!"),
        ("हिंदी", "हिंदी"),
        ("a\u200bb", "ab"),
    ],
)
def test_normalisation_drops_case_punctuation_and_spaces(text, expected):
    assert normalised(text) == expected
