"""The tasks: pure functions over texts and arrays."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tremplin.errors import BadInput
from tremplin.tasks.classify import classification
from tremplin.tasks.embed import shorten, unit
from tremplin.tasks.explain import MAX_SPANS, explanation, occlusions, spans
from tremplin.tasks.rerank import ranking, sigmoid
from tremplin.tasks.search import Document, nearest
from tremplin.tasks.similarity import cosine
from tremplin.tasks.sparse import sparse_vector
from tremplin.tasks.zero_shot import CandidateLabel, nearest_label

vectors = arrays.arrays(np.float32, (5, 8), elements=st.floats(-10, 10, width=32)).map(
    lambda rows: unit(rows + np.eye(5, 8, dtype=np.float32) * 0.5)
)


@given(vectors, st.integers(1, 8))
def test_shortened_vectors_are_unit_vectors_in_the_same_direction(rows: np.ndarray, dimensions: int) -> None:
    short = shorten(rows, dimensions)
    assert short.shape == (5, dimensions)
    norms = np.linalg.norm(short, axis=1)
    kept = np.linalg.norm(rows[:, :dimensions], axis=1) > 1e-6
    np.testing.assert_allclose(norms[kept], 1.0, atol=1e-5)
    assert not np.isnan(short).any()


@pytest.mark.parametrize("dimensions", [0, -1, 9, 10**30])
def test_dimensions_a_model_does_not_have_are_refused(dimensions: int) -> None:
    with pytest.raises(BadInput, match="between 1 and 8"):
        shorten(np.ones((1, 8), np.float32), dimensions)


def test_a_zero_vector_stays_zero() -> None:
    np.testing.assert_array_equal(unit(np.zeros((1, 4), np.float32)), np.zeros((1, 4)))


@given(vectors)
def test_cosines_stay_in_their_range(rows: np.ndarray) -> None:
    scores = cosine(rows[0], rows)
    assert ((scores >= -1) & (scores <= 1)).all()
    assert scores[0] == pytest.approx(1.0, abs=1e-5)


@given(arrays.arrays(np.float32, 6, elements=st.floats(0, 1, width=32)), st.none() | st.floats(0, 1))
def test_classification_orders_labels_and_abstains_below_its_mark(shares: np.ndarray, mark: float | None) -> None:
    labels = list("abcdef")
    result = classification(shares, labels, mark)
    assert sorted(score.label for score in result.scores) == labels
    probabilities = [score.probability for score in result.scores]
    assert probabilities == sorted(probabilities, reverse=True)
    assert result.best.probability == float(shares.max())
    assert result.abstained is (mark is not None and float(shares.max()) < mark)
    assert result.label == (None if result.abstained else result.best.label)


def test_equal_scores_keep_the_order_of_the_labels() -> None:
    scores = classification(np.full(3, 1 / 3, np.float32), ["c", "a", "b"], None).scores
    assert [score.label for score in scores] == ["c", "a", "b"]


@given(st.text(max_size=300), st.integers(1, 10))
def test_spans_cover_words_in_order_without_overlap(text: str, limit: int) -> None:
    parts = spans(text, limit)
    assert len(parts) <= limit
    assert all(0 <= part.start < part.end <= len(text) for part in parts)
    assert all(first.end <= second.start for first, second in pairwise(parts))
    for part, rest in zip(parts, occlusions(text, parts), strict=True):
        assert rest == (text[: part.start] + text[part.end :]).strip() or rest == "."
        assert rest.strip()


def test_many_words_are_grouped() -> None:
    text = " ".join(f"word{i}" for i in range(1000))
    parts = spans(text)
    assert len(parts) == MAX_SPANS
    assert (parts[0].start, parts[-1].end) == (0, len(text))


def test_a_weight_is_what_its_removal_costs() -> None:
    parts = spans("don't go")
    found = explanation("don't go", parts, "stay", 0.9, np.array([0.4, 1.0], np.float32))
    assert [(word.text, round(word.weight, 6)) for word in found.words] == [("don't", 0.5), ("go", -0.1)]


@given(vectors, st.integers(1, 10))
def test_search_gives_the_nearest_best_first(rows: np.ndarray, top_k: int) -> None:
    documents = [Document(str(i), "", "") for i in range(5)]
    hits = nearest(rows[2], rows, documents, top_k)
    assert len(hits) == min(top_k, 5)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(float(np.clip(rows @ rows[2], -1, 1).max()))


@given(vectors)
def test_zero_shot_orders_labels_by_cosine(rows: np.ndarray) -> None:
    labels = list("abcd")
    result = nearest_label(rows[0], rows[1:], labels)
    best = float((rows[1:] @ rows[0]).max())
    assert float(rows[1:][labels.index(result.best.label)] @ rows[0]) == pytest.approx(best, abs=1e-6)
    assert sum(score.probability for score in result.scores) == pytest.approx(1.0, abs=1e-5)
    assert not result.abstained


def test_a_label_is_compared_by_what_it_means() -> None:
    assert CandidateLabel("late_parcel", "the parcel is late").text == "late parcel: the parcel is late"
    assert CandidateLabel("late parcel").text == "late parcel"


raw_scores = arrays.arrays(np.float32, st.integers(1, 9), elements=st.floats(-200, 200, width=32))


@given(raw_scores, st.none() | st.integers(1, 12))
def test_a_ranking_is_the_best_documents_in_order(scores: np.ndarray, top_n: int | None) -> None:
    raw = ranking(scores, raw_scores=True, top_n=top_n)
    assert len(raw) == min(len(scores), top_n or len(scores))
    assert [ranked.score for ranked in raw] == np.sort(scores)[::-1][: len(raw)].tolist()
    assert all(scores[ranked.index] == ranked.score for ranked in raw)
    for before, after in pairwise(raw):
        assert before.score > after.score or before.index < after.index  # equal scores keep their order
    shown = ranking(scores, top_n=top_n)
    assert [ranked.index for ranked in shown] == [ranked.index for ranked in raw]
    assert all(0 <= ranked.score <= 1 for ranked in shown)


def test_scores_too_large_to_tell_apart_keep_their_order() -> None:
    scores = np.array([50, 90, 70], np.float32)
    assert [ranked.index for ranked in ranking(scores)] == [1, 2, 0]
    np.testing.assert_allclose(
        sigmoid(np.array([0, 1, -1, 300, -300], np.float32)), [0.5, 0.7310586, 0.2689414, 1, 0]
    )


@given(arrays.arrays(np.float32, 30, elements=st.just(0.0) | st.floats(0.5, 5, width=32)))
def test_a_sparse_vector_holds_what_is_not_zero(weights: np.ndarray) -> None:
    found = sparse_vector(weights)
    dense = np.zeros_like(weights)
    dense[found.indices] = found.values
    np.testing.assert_array_equal(dense, weights)
    assert (found.values != 0).all()
