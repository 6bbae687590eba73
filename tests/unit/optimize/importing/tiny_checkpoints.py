"""Writes small checkpoints with random weights, without torch."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

LETTERS = string.ascii_lowercase + string.digits + "éèàçùœ"
WORDS = ("the", "le", "train", "phare", "order", "yes", "no", "light", "sugar", "plants")
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")

HIDDEN, LAYERS, HEADS, WIDE, POSITIONS = 32, 2, 4, 48, 64


def write_tokenizer(folder: Path, *, like_roberta: bool = False) -> int:
    """Write tokenizer.json and tokenizer_config.json; return the number of tokens."""
    special = ROBERTA_SPECIAL if like_roberta else BERT_SPECIAL
    pieces = [*special, *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS), *".,!?;:'-()@%€$#/"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    first, pad, last, unknown = (
        ("<s>", "<pad>", "</s>", "<unk>") if like_roberta else ("[CLS]", "[PAD]", "[SEP]", "[UNK]")
    )
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pair = f"{first} $A {last} {last} $B {last}" if like_roberta else f"{first} $A {last} $B:1 {last}:1"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=pair,
        special_tokens=[(first, vocabulary[first]), (last, vocabulary[last])],
    )
    tokenizer.add_special_tokens(list(special))
    # As the bundled model's file: fixed padding and a truncation of whoever saved it.
    tokenizer.enable_padding(length=24, pad_id=vocabulary[pad], pad_token=pad)
    tokenizer.enable_truncation(24)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ["input_ids", "attention_mask"] if like_roberta else ["input_ids", "token_type_ids", "attention_mask"]
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": names,
        "cls_token": first,
        "sep_token": last,
        "pad_token": pad,
        "unk_token": unknown,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(pieces)


def write_json(path: Path, values: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def edit_json(path: Path, **changes: object) -> None:
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def write_sentence_modules(
    folder: Path,
    pooling: dict[str, Any],
    *others: tuple[str, dict[str, Any]],
    max_seq_length: int | None = None,
) -> None:
    """Make a bare encoder a sentence-transformers model: pooling, then (kind, config) in order."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for index, (kind, config) in enumerate((("Pooling", pooling), *others), start=1):
        path = f"{index}_{kind}"
        listed.append(
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        )
        write_json(folder / path / "config.json", config)
        if kind == "Dense":
            write_dense(folder / path, config)
    write_json(folder / "modules.json", listed)
    if max_seq_length is not None:
        write_json(
            folder / "sentence_bert_config.json", {"max_seq_length": max_seq_length, "do_lower_case": False}
        )


def write_dense(folder: Path, config: dict[str, Any]) -> None:
    generator = np.random.default_rng(3)
    tensors = {"linear.weight": generator.normal(0, 0.2, (config["out_features"], config["in_features"]))}
    if config.get("bias", True):
        tensors["linear.bias"] = generator.normal(0, 0.2, config["out_features"])
    save_file({name: value.astype(np.float32) for name, value in tensors.items()}, folder / "model.safetensors")


def bert_tensors(vocabulary: int, labels: int = 0, prefix: str = "") -> dict[str, np.ndarray]:
    """Tensors of a tiny BERT, written by hand so that the tests of the reader need no torch."""
    generator = np.random.default_rng(7)

    def values(*shape: int) -> np.ndarray:
        return generator.normal(0, 0.25, shape).astype(np.float32)

    tensors: dict[str, np.ndarray] = {}

    def linear(name: str, outputs: int, inputs: int) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = values(outputs, inputs), values(outputs)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = 1 + values(HIDDEN), values(HIDDEN)

    at = f"{prefix}embeddings."
    tensors[f"{at}word_embeddings.weight"] = values(vocabulary, HIDDEN)
    tensors[f"{at}position_embeddings.weight"] = values(POSITIONS, HIDDEN)
    tensors[f"{at}token_type_embeddings.weight"] = values(2, HIDDEN)
    norm(f"{at}LayerNorm")
    for index in range(LAYERS):
        layer = f"{prefix}encoder.layer.{index}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}attention.{part}", HIDDEN, HIDDEN)
        norm(f"{layer}attention.output.LayerNorm")
        linear(f"{layer}intermediate.dense", WIDE, HIDDEN)
        linear(f"{layer}output.dense", HIDDEN, WIDE)
        norm(f"{layer}output.LayerNorm")
    linear(f"{prefix}pooler.dense", HIDDEN, HIDDEN)
    if labels:
        linear("classifier", labels, HIDDEN)
    return tensors


def write_bert(folder: Path, *, labels: int = 0, **config: object) -> Path:
    """Write a tiny BERT without any library but safetensors: a bare encoder, or a classifier of ``labels``."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    values: dict[str, object] = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification" if labels else "BertModel"],
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": WIDE,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
    if labels:
        values["id2label"] = {str(index): f"label {index}" for index in range(labels)}
    save_file(bert_tensors(vocabulary, labels, "bert." if labels else ""), folder / "model.safetensors")
    write_json(folder / "config.json", values | config)
    return folder


def write_masked_bert(folder: Path) -> Path:
    """Write a tiny BERT that guesses masked tokens, its word table shared with the guess."""
    write_bert(folder, architectures=["BertForMaskedLM"])
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    generator = np.random.default_rng(5)
    tensors = bert_tensors(vocabulary, prefix="bert.")
    at = "cls.predictions"
    for name, shape in (
        (f"{at}.transform.dense.weight", (HIDDEN, HIDDEN)),
        (f"{at}.transform.dense.bias", (HIDDEN,)),
        (f"{at}.transform.LayerNorm.weight", (HIDDEN,)),
        (f"{at}.transform.LayerNorm.bias", (HIDDEN,)),
        (f"{at}.bias", (vocabulary,)),
    ):
        tensors[name] = generator.normal(0, 0.25, shape).astype(np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder
