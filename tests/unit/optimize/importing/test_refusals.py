"""Sources that cannot be imported: each is refused with its own error, and nothing is written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import HIDDEN, bert_tensors, edit_json, write_bert, write_json

from tremplin.errors import (
    ImportRefused,
    IncompleteSource,
    TokenizerMismatch,
    UnsafeWeights,
    UnsupportedModel,
)
from tremplin.optimize.importing import Task, import_model


def refused(folder: Path | str, error: type[ImportRefused], match: str, task: Task | None = None) -> None:
    """Import ``folder``, expect ``error``, and expect an empty destination."""
    destination = Path(str(folder)).with_name("imported")
    with pytest.raises(error, match=match) as caught:
        import_model(folder, destination, task=task, reference="numpy")
    assert len(str(caught.value)) > 30
    assert not destination.exists() or list(destination.iterdir()) == []


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (Path.write_text, (self.path, "it ran"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt"])
def test_pickle_is_refused_unread(name: str, classifier: Path, tmp_path: Path) -> None:
    (classifier / "model.safetensors").unlink()
    trace = tmp_path / "trace"
    (classifier / name).write_bytes(pickle.dumps(Bomb(trace)))
    refused(classifier, UnsafeWeights, f"{name}.*can run code.*save_pretrained")
    assert not trace.exists()


def test_pickle_beside_safetensors_is_ignored(classifier: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (classifier / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    import_model(classifier, tmp_path / "imported", reference="numpy")
    assert not trace.exists()


@pytest.mark.parametrize("kept", [0, 7, 1000, -1])
def test_truncated_weights_are_refused(kept: int, classifier: Path) -> None:
    path = classifier / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(classifier, IncompleteSource, "model.safetensors.*cut short")


def test_weights_that_are_not_finite_are_refused(classifier: Path) -> None:
    tensors = load_file(classifier / "model.safetensors")
    tensors["classifier.weight"] = tensors["classifier.weight"] * np.float32("nan")
    save_file(tensors, classifier / "model.safetensors")
    refused(classifier, IncompleteSource, "classifier.weight.*not finite")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"model_type": 3}', "\x00\xff"])
def test_corrupt_config_is_refused(text: str, classifier: Path) -> None:
    (classifier / "config.json").write_bytes(text.encode("latin-1"))
    refused(classifier, IncompleteSource, "config.json")


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size", "num_hidden_layers", "model_type"])
def test_config_without_a_number_is_refused(key: str, classifier: Path) -> None:
    edit_json(classifier / "config.json", **{key: None})
    refused(classifier, IncompleteSource, key)


@pytest.mark.parametrize(
    "name",
    [
        "bert.embeddings.word_embeddings.weight",
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.1.attention.self.key.bias",
        "bert.encoder.layer.0.output.LayerNorm.weight",
        "bert.pooler.dense.weight",
        "classifier.bias",
    ],
)
def test_missing_tensor_is_refused(name: str, classifier: Path) -> None:
    tensors = load_file(classifier / "model.safetensors")
    del tensors[name]
    save_file(tensors, classifier / "model.safetensors")
    refused(classifier, IncompleteSource, name.replace(".", r"\."))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 64),
        ("intermediate_size", 50),
        ("max_position_embeddings", 512),
        ("vocab_size", 30522),
        ("type_vocab_size", 3),
        ("num_hidden_layers", 3),
        ("num_attention_heads", 5),
    ],
)
def test_shapes_against_the_config_are_refused(key: str, value: int, classifier: Path) -> None:
    edit_json(classifier / "config.json", **{key: value})
    refused(classifier, ImportRefused, r"shape|missing|divided|could never be used")


def test_more_labels_than_the_head_has_are_refused(classifier: Path) -> None:
    edit_json(classifier / "config.json", id2label={str(index): f"label {index}" for index in range(6)})
    refused(classifier, IncompleteSource, r"classifier\.weight.*\(5, 32\).*\(6, 32\)")


@pytest.mark.parametrize(
    "labels",
    [{"0": "a", "2": "b"}, {"zero": "a"}, {"0": "a", "1": "a"}, ["a", "b"]],
    ids=["gap", "word", "twice", "list"],
)
def test_labels_that_name_nothing_are_refused(labels: object, classifier: Path) -> None:
    edit_json(classifier / "config.json", id2label=labels)
    refused(classifier, IncompleteSource, "id2label")


def test_missing_shard_is_refused(classifier: Path) -> None:
    names = {"classifier.weight": "model-00002-of-00002.safetensors"}
    write_json(classifier / "model.safetensors.index.json", {"weight_map": names})
    (classifier / "model.safetensors").unlink()
    refused(classifier, IncompleteSource, "model-00002-of-00002.safetensors")


def test_shard_outside_the_folder_is_not_read(classifier: Path) -> None:
    names = {"classifier.weight": "../elsewhere/model.safetensors"}
    (classifier.parent / "elsewhere").mkdir()
    (classifier / "model.safetensors").rename(classifier.parent / "elsewhere" / "model.safetensors")
    write_json(classifier / "model.safetensors.index.json", {"weight_map": names})
    refused(classifier, IncompleteSource, "not there")


def test_corrupt_index_is_refused(classifier: Path) -> None:
    (classifier / "model.safetensors").unlink()
    (classifier / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    refused(classifier, IncompleteSource, "index")


def test_empty_folder_missing_folder_and_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", IncompleteSource, "config.json")
    refused(tmp_path / "nowhere", IncompleteSource, "does not exist")
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", IncompleteSource, "is a file")


def test_no_weights_at_all_are_refused(classifier: Path) -> None:
    (classifier / "model.safetensors").unlink()
    refused(classifier, IncompleteSource, "neither model.safetensors")


def test_head_that_the_checkpoint_lacks_is_refused(bare_bert: Path) -> None:
    refused(bare_bert, IncompleteSource, r"qa_outputs\.weight", Task.QUESTION_ANSWERING)
    refused(bare_bert, IncompleteSource, r"classifier\.weight", Task.CLASSIFICATION)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("hidden_act", "quick_gelu"),
        ("auto_map", {"AutoModel": "modeling.Mine"}),
        ("architectures", ["BertForMultipleChoice"]),
        ("architectures", ["BertLMHeadModelForCausalLM"]),
    ],
)
def test_variant_that_cannot_be_built_is_refused(key: str, value: object, classifier: Path) -> None:
    edit_json(classifier / "config.json", **{key: value})
    refused(classifier, UnsupportedModel, "config.json")


def test_unknown_architecture_has_no_numpy_reference(classifier: Path) -> None:
    edit_json(classifier / "config.json", model_type="albert")
    refused(classifier, UnsupportedModel, "albert")


def test_corrupt_modules_are_refused(sentence_bert: Path) -> None:
    (sentence_bert / "modules.json").write_text('{"no": "list"}')
    refused(sentence_bert, IncompleteSource, "modules.json")


def test_model_that_starts_with_something_else_is_refused(sentence_bert: Path) -> None:
    listed = [{"idx": 0, "name": "0", "path": "0_BoW", "type": "sentence_transformers.models.BoW"}]
    write_json(sentence_bert / "modules.json", listed)
    refused(sentence_bert, UnsupportedModel, "BoW")


def test_module_outside_the_folder_is_refused(sentence_bert: Path) -> None:
    listed = json.loads((sentence_bert / "modules.json").read_text())
    listed[1]["path"] = "../1_Pooling"
    write_json(sentence_bert / "modules.json", listed)
    refused(sentence_bert, IncompleteSource, "outside")


# The tokenizer ---------------------------------------------------------------------------------------------


def test_missing_tokenizer_is_refused(classifier: Path) -> None:
    (classifier / "tokenizer.json").unlink()
    refused(classifier, IncompleteSource, r"no tokenizer\.json.*save_pretrained")


def test_corrupt_tokenizer_is_refused(classifier: Path) -> None:
    text = (classifier / "tokenizer.json").read_text()
    (classifier / "tokenizer.json").write_text(text[: len(text) // 2])
    refused(classifier, IncompleteSource, "tokenizer.json is not a tokenizer")


def test_ids_beyond_the_table_are_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] - 5
    save_file(bert_tensors(rows), folder / "model.safetensors")
    edit_json(folder / "config.json", vocab_size=rows)
    refused(folder, TokenizerMismatch, f"{rows} embedding rows")


def test_vocabulary_far_smaller_than_the_table_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source")
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] + 128
    save_file(bert_tensors(rows), folder / "model.safetensors")
    edit_json(folder / "config.json", vocab_size=rows)
    refused(folder, TokenizerMismatch, "128 rows could never be used")


def test_table_padded_to_a_multiple_is_accepted(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source")
    tokens = json.loads((folder / "config.json").read_text())["vocab_size"]
    rows = -(-tokens // 128) * 128
    assert rows > tokens
    save_file(bert_tensors(rows), folder / "model.safetensors")
    edit_json(folder / "config.json", vocab_size=rows)
    model = import_model(folder, tmp_path / "imported", reference="numpy")
    assert model.vocab_size == rows


def test_missing_special_token_is_refused(classifier: Path) -> None:
    edit_json(classifier / "tokenizer_config.json", cls_token="<s>")
    refused(classifier, TokenizerMismatch, "<s>")


# What is accepted although unusual -------------------------------------------------------------------------


def test_legacy_names_of_normalisations_are_read(classifier: Path, tmp_path: Path) -> None:
    modern = import_model(classifier, tmp_path / "modern", reference="numpy")
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(classifier / "model.safetensors").items()
    }
    assert any(name.endswith(".gamma") for name in renamed)
    save_file(renamed, classifier / "model.safetensors")
    legacy = import_model(classifier, tmp_path / "legacy", reference="numpy")
    assert legacy.onnx_path.read_bytes() == modern.onnx_path.read_bytes()


def test_word_table_saved_only_in_the_tied_head_is_read(bare_bert: Path, tmp_path: Path) -> None:
    tensors = load_file(bare_bert / "model.safetensors")
    tensors["cls.predictions.decoder.weight"] = tensors.pop("embeddings.word_embeddings.weight")
    save_file(tensors, bare_bert / "model.safetensors")
    assert import_model(bare_bert, tmp_path / "imported", reference="numpy").embedding_dim == HIDDEN


def test_half_precision_weights_are_read(classifier: Path, tmp_path: Path) -> None:
    halves = {
        name: tensor.astype(np.float16) for name, tensor in load_file(classifier / "model.safetensors").items()
    }
    save_file(halves, classifier / "model.safetensors")
    assert import_model(classifier, tmp_path / "imported", reference="numpy").parity.label_agreement == 1.0
