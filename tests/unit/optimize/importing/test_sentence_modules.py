"""Pooling, Dense and Normalize, against sentence-transformers and against the NumPy reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from tiny_checkpoints import HIDDEN, edit_json, write_bert, write_json, write_sentence_modules

from tremplin.errors import IncompleteSource, UnsafeWeights, UnsupportedModel
from tremplin.optimize.importing import Task, import_model

MEAN = {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True}

FLAGS = (
    "pooling_mode_cls_token",
    "pooling_mode_max_tokens",
    "pooling_mode_mean_tokens",
    "pooling_mode_mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens",
    "pooling_mode_lasttoken",
)

PIPELINES: dict[str, tuple[dict[str, Any], tuple[tuple[str, dict[str, Any]], ...], int]] = {
    **{
        flag.removeprefix("pooling_mode_"): ({"word_embedding_dimension": HIDDEN, flag: True}, (), HIDDEN)
        for flag in FLAGS
    },
    "six modes": ({"word_embedding_dimension": HIDDEN, **dict.fromkeys(FLAGS, True)}, (), 6 * HIDDEN),
    "two modes, named": (
        {"embedding_dimension": HIDDEN, "pooling_mode": ["lasttoken", "cls"]},
        (("Normalize", {}),),
        2 * HIDDEN,
    ),
    "one mode, named": ({"embedding_dimension": HIDDEN, "pooling_mode": "max"}, (("Normalize", {}),), HIDDEN),
    "dense": (
        {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True},
        (
            (
                "Dense",
                {
                    "in_features": HIDDEN,
                    "out_features": 12,
                    "bias": True,
                    "activation_function": "torch.nn.modules.activation.Tanh",
                },
            ),
        ),
        12,
    ),
    "two denses, normalised between": (
        {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": True},
        (
            (
                "Dense",
                {
                    "in_features": HIDDEN,
                    "out_features": 16,
                    "bias": False,
                    "activation_function": "torch.nn.modules.activation.GELU",
                },
            ),
            ("Normalize", {}),
            ("Dropout", {"dropout": 0.5}),
            (
                "Dense",
                {
                    "in_features": 16,
                    "out_features": 8,
                    "bias": True,
                    "activation_function": "torch.nn.modules.linear.Identity",
                },
            ),
        ),
        8,
    ),
}


@pytest.mark.parametrize("reference", ["numpy", "transformers"])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline_equals_its_source(pipeline: str, reference: str, tmp_path: Path) -> None:
    if reference == "transformers":
        pytest.importorskip("sentence_transformers", reason="the original to compare with")
    pooling, others, width = PIPELINES[pipeline]
    folder = write_bert(tmp_path / "source")
    write_sentence_modules(folder, pooling, *others, max_seq_length=20)
    model = import_model(folder, tmp_path / "imported", reference=reference)
    assert model.task is Task.EMBEDDING
    assert model.embedding_dim == width
    assert model.max_tokens == 20
    assert model.notes == ()
    assert model.parity.max_abs_difference <= 1e-5
    assert ("sentence-transformers" in model.parity.reference_name) is (reference == "transformers")


def test_encoder_in_its_own_folder_as_old_models_have_it(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source" / "0_Transformer").parent
    write_sentence_modules(folder, {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True})
    listed = [
        {"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    write_json(folder / "modules.json", listed)
    assert import_model(folder, tmp_path / "imported", reference="numpy").embedding_dim == HIDDEN


def test_bare_encoder_says_which_pooling_it_was_given(bare_bert: Path, tmp_path: Path) -> None:
    model = import_model(bare_bert, tmp_path / "imported", reference="numpy")
    assert model.embedding_dim == HIDDEN
    assert len(model.notes) == 1
    assert "mean over tokens" in model.notes[0]


def test_answer_does_not_depend_on_padding_or_neighbours(sentence_bert: Path, tmp_path: Path) -> None:
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    session = ort.InferenceSession(str(model.onnx_path))
    alone = np.array([[2, 17, 30, 3]])
    padded = np.array([[2, 17, 30, 3, 0, 0, 0], [2, 40, 41, 42, 43, 44, 3]])
    (one,) = session.run(None, {"input_ids": alone, "attention_mask": np.ones_like(alone)})
    mask = np.array([[1, 1, 1, 1, 0, 0, 0], [1] * 7])
    (two,) = session.run(None, {"input_ids": padded, "attention_mask": mask})
    np.testing.assert_allclose(one[0], two[0], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(two, axis=1), 1.0, atol=1e-5)


def test_prompts_of_the_source_are_named_in_the_notes(sentence_bert: Path, tmp_path: Path) -> None:
    write_json(
        sentence_bert / "config_sentence_transformers.json",
        {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"},
    )
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    assert len(model.notes) == 1
    assert "(query)" in model.notes[0]


def test_lower_casing_by_the_sentence_config_is_kept(sentence_bert: Path, tmp_path: Path) -> None:
    tokenizer = (sentence_bert / "tokenizer.json").read_text()
    (sentence_bert / "tokenizer.json").write_text(tokenizer.replace('{"type":"Lowercase"}', "null", 1))
    edit_json(sentence_bert / "tokenizer.json", normalizer=None)
    edit_json(sentence_bert / "sentence_bert_config.json", do_lower_case=True)
    model = import_model(sentence_bert, tmp_path / "imported", reference="numpy")
    assert '"Lowercase"' in model.tokenizer_path.read_text()


@pytest.mark.parametrize(
    ("module", "config", "error", "part"),
    [
        ("LSTM", {}, UnsupportedModel, "LSTM"),
        ("Normalize", {"module_input_name": "token_embeddings"}, UnsupportedModel, "module_input_name"),
        (
            "Dense",
            {"in_features": 7, "out_features": 3, "activation_function": "torch.nn.modules.activation.Tanh"},
            IncompleteSource,
            "7 dimensions",
        ),
        (
            "Dense",
            {"in_features": HIDDEN, "out_features": 3, "activation_function": "mine.Own"},
            UnsupportedModel,
            "mine.Own",
        ),
        (
            "Dense",
            {"in_features": HIDDEN, "out_features": 3, "use_residual": True},
            UnsupportedModel,
            "residual",
        ),
    ],
)
def test_module_that_cannot_be_built_is_refused(
    module: str, config: dict[str, Any], error: type[Exception], part: str, tmp_path: Path
) -> None:
    folder = write_bert(tmp_path / "source")
    write_sentence_modules(folder, MEAN, (module, config))
    with pytest.raises(error, match=part):
        import_model(folder, tmp_path / "imported", reference="numpy")


def test_dense_kept_as_pickle_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source")
    config = {"in_features": HIDDEN, "out_features": 3}
    write_sentence_modules(folder, MEAN, ("Dense", config))
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UnsafeWeights, match="2_Dense"):
        import_model(folder, tmp_path / "imported", reference="numpy")


def test_unknown_pooling_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source")
    write_sentence_modules(folder, {"pooling_mode": "attention"})
    with pytest.raises(UnsupportedModel, match="attention"):
        import_model(folder, tmp_path / "imported", reference="numpy")


def test_pooling_of_another_width_is_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "source")
    write_sentence_modules(folder, {"word_embedding_dimension": 384, "pooling_mode_mean_tokens": True})
    with pytest.raises(IncompleteSource, match="384"):
        import_model(folder, tmp_path / "imported", reference="numpy")
