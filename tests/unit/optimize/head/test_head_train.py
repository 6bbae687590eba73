"""From labelled text to a measured classifier, on the five-word encoder."""

from __future__ import annotations

import json

import numpy as np
import pytest
from five_words import Encoder, labelled, tokenize, write_encoder

from tremplin.errors import PassFailed, TrainingRefused
from tremplin.optimize.head.train import train_head
from tremplin.optimize.report.evidence import read_evidence


@pytest.fixture
def encoder(tmp_path):
    return write_encoder(tmp_path / "encoder.onnx")


def train(encoder, data, **options):
    return train_head(
        data, Encoder(encoder), encoder, encoder.with_name("model.onnx"), tokenize=tokenize, **options
    )


def test_a_head_is_trained_attached_and_measured(encoder):
    told: list[tuple[str, float]] = []
    head = train(encoder, labelled(150, langs=True), progress=lambda step, share: told.append((step, share)))
    metrics = {metric.name: metric for metric in head.metrics}
    assert {"accuracy", "macro_f1", "expected_calibration_error", "coverage"} <= set(metrics)
    assert metrics["accuracy"].value > 0.85
    assert metrics["accuracy"].n == 44  # 15 % of 150 is 22.5 for each label; training takes the half
    assert head.labels == ("account", "money")
    assert head.graph.is_file()
    assert head.data_sha256 == "0" * 64
    assert [step for step, share in told if share == 0.0] == ["encode", "choose", "fit", "attach", "measure"]
    assert set(head.seconds) == {"encode", "choose", "fit", "attach", "measure"}
    assert all(0 <= share <= 1 for _, share in told)
    report = json.loads(json.dumps(head.report))
    assert read_evidence(report).unread == ()
    assert [row["lang"] for row in report["languages"]] == ["en", "fr"]
    assert report["training"]["rows_fitted"] == 256


def test_the_seed_decides_everything(encoder):
    data = labelled(60)
    first = train(encoder, data, seed=4)
    payload = first.graph.read_bytes()
    second = train(encoder, data, seed=4)
    assert second.graph.read_bytes() == payload
    assert second.metrics == first.metrics
    assert second.report == first.report


def test_a_test_file_is_measured_on_and_its_rows_leave_training(encoder):
    data = labelled(60)
    test = labelled(30, seed=9, start=1000)
    leaking = data.rows(np.arange(5))
    mixed = type(test)(
        "test.jsonl", test.texts + leaking.texts, test.labels + leaking.labels, test.label_names, "1" * 64
    )
    head = train(encoder, data, test=mixed)
    assert head.metrics[0].n == 65
    assert head.report["training"]["rows_fitted"] == 115  # type: ignore[index]
    assert "5 training rows are also in test.jsonl; they were left out of training." in head.notes


def test_labels_of_the_test_file_must_be_known(encoder):
    test = labelled(10, start=1000)
    other = type(test)("t.csv", test.texts, tuple("new" for _ in test.labels), ("new",), "1" * 64)
    with pytest.raises(TrainingRefused, match=r"t\.csv: 1 labels are not in five\.jsonl: 'new'"):
        train(encoder, labelled(20), test=other)


def test_noise_reaches_no_threshold_and_says_so(encoder):
    head = train(encoder, labelled(60, noise=1.0))
    assert any("No threshold is proven" in note for note in head.notes)


def test_test_rows_unlike_the_training_rows_are_noted(encoder):
    test = labelled(60, noise=1.0, seed=3, start=1000)
    head = train(encoder, labelled(100, noise=0.0), test=test)
    assert any("the two differ" in note for note in head.notes)


def test_an_encoder_that_spoils_numbers_or_tells_nothing_apart_is_refused(encoder):
    data = labelled(20)

    def train_with(encode):
        train_head(data, encode, encoder, encoder.with_name("m.onnx"), tokenize=tokenize)

    with pytest.raises(TrainingRefused, match="not finite for 40 of 40"):
        train_with(lambda texts: np.full((len(texts), 3), np.nan, np.float32))
    with pytest.raises(TrainingRefused, match="same vector for every text"):
        train_with(lambda texts: np.ones((len(texts), 3), np.float32))


def test_features_of_another_encoder_are_found_out(encoder, tmp_path):
    other = Encoder(write_encoder(tmp_path / "other.onnx", seed=5))
    with pytest.raises(PassFailed, match="are not the embedding"):
        train_head(labelled(40), other, encoder, tmp_path / "m.onnx", tokenize=tokenize)
