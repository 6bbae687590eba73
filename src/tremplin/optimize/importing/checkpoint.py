"""Reads a model as Hugging Face and sentence-transformers write it to disk: configuration, weights, modules.

This file knows how a source is laid out, not what its numbers mean: families.py and heads.py do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tremplin.errors import IncompleteSource, UnsupportedModel
from tremplin.optimize.importing import hub
from tremplin.optimize.importing.weights import Weights

# sentence-transformers named this file after the model until version 2.
SENTENCE_CONFIGS = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json",
)  # fmt: skip


class Config:
    """A JSON object from outside, read one typed value at a time; a wrong type names the file and the key."""

    def __init__(self, values: Mapping[str, object], path: Path) -> None:
        self.values = values
        self.path = path

    def get(self, *keys: str) -> object:
        """Return the first of ``keys`` that is present and not null, else None."""
        return next((self.values[key] for key in keys if self.values.get(key) is not None), None)

    def integer(self, *keys: str, default: int | None = None) -> int:
        """Return a whole number; raises IncompleteSource when absent without default, or not one."""
        value = self.get(*keys)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._unusable(keys, value, "a whole number")
        return value

    def number(self, *keys: str, default: float | None = None) -> float:
        """Return a number; raises IncompleteSource when absent without default, or not one."""
        value = self.get(*keys)
        value = default if value is None else value
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._unusable(keys, value, "a number")
        return float(value)

    def text(self, *keys: str, default: str | None = None) -> str:
        """Return a string; raises IncompleteSource when absent without default, or not one."""
        value = self.get(*keys)
        value = default if value is None else value
        if not isinstance(value, str):
            raise self._unusable(keys, value, "a string")
        return value

    def flag(self, key: str) -> bool:
        """Return whether ``key`` is present and true."""
        return bool(self.values.get(key, False))

    def _unusable(self, keys: tuple[str, ...], value: object, expected: str) -> IncompleteSource:
        return IncompleteSource(f"{self.path}: {keys[0]!r} is {value!r}, expected {expected}.")


@dataclass(frozen=True)
class SentenceModule:
    """One module of a sentence-transformers model, as its modules.json lists it."""

    kind: str
    """The class's short name: Transformer, Pooling, Dense, Normalize, ..."""
    folder: Path
    config: Config


@dataclass(frozen=True)
class Checkpoint:
    """A source opened: nothing of it has been interpreted yet."""

    source: str
    revision: str | None
    root: Path
    folder: Path
    """Where the encoder lives: the root, or ``0_Transformer`` in old sentence-transformers models."""
    config: Config
    weights: Weights
    modules: tuple[SentenceModule, ...]
    """What follows the encoder in a sentence-transformers model; empty when it is not one."""
    is_sentence_model: bool
    tokenizer_config: Config
    sentence_config: Config

    @property
    def model_type(self) -> str:
        """The architecture family as transformers names it: ``bert``, ``xlm-roberta``, ..."""
        return self.config.text("model_type")

    @property
    def architecture(self) -> str:
        """The class that wrote the checkpoint, e.g. ``BertForSequenceClassification``; "" when unknown."""
        declared = self.config.get("architectures")
        return str(declared[0]) if isinstance(declared, list) and declared else ""

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of the prompts that config_sentence_transformers.json declares, the empty ones left out."""
        declared = _optional(self.root / "config_sentence_transformers.json").get("prompts")
        return tuple(name for name, text in declared.items() if text) if isinstance(declared, dict) else ()

    @property
    def tokenizer_path(self) -> Path:
        """Path of tokenizer.json, in the encoder's folder or at the root."""
        own = self.folder / "tokenizer.json"
        return own if own.is_file() else self.root / "tokenizer.json"


def open_checkpoint(source: str | Path, revision: str | None = None) -> Checkpoint:
    """Open a local folder, or fetch a Hub id (``org/name``, ``org/name@revision``) first.

    A local path never touches the network. Raises IncompleteSource when a needed file is missing or is not
    valid JSON, UnsafeWeights when the weights are pickles, UnsupportedModel when the source has its own code.
    """
    root, resolved = _locate(source, revision)
    entries = _module_entries(root / "modules.json")
    folder = root / entries[0][1] if entries else root
    config = read_config(folder / "config.json")
    if config.get("auto_map") is not None:
        raise UnsupportedModel(
            f"{folder / 'config.json'} asks for code of its own (auto_map). Tremplin runs no code from a "
            "checkpoint. Save the model with classes that transformers itself has, and import that."
        )
    if not (folder / "tokenizer.json").is_file() and not (root / "tokenizer.json").is_file():
        raise IncompleteSource(
            f"{folder} has no tokenizer.json. Write it once with transformers: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})."
        )
    return Checkpoint(
        source=str(source),
        revision=resolved,
        root=root,
        folder=folder,
        config=config,
        weights=Weights(folder),
        modules=tuple(_module(root, kind, path) for kind, path in entries[1:]),
        is_sentence_model=bool(entries),
        tokenizer_config=_optional(folder / "tokenizer_config.json"),
        sentence_config=next(
            (read_config(folder / name) for name in SENTENCE_CONFIGS if (folder / name).is_file()),
            Config({}, folder / SENTENCE_CONFIGS[0]),
        ),
    )


def read_config(path: Path) -> Config:
    """Return the JSON object in ``path``; raises IncompleteSource when it is missing or is not one."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise IncompleteSource(f"{path} is missing. Give a folder written by save_pretrained.") from error
    except (OSError, ValueError) as error:
        raise IncompleteSource(f"{path} is not valid JSON ({error}). Fetch it again.") from error
    if not isinstance(values, dict):
        raise IncompleteSource(f"{path} holds {type(values).__name__}, expected a JSON object.")
    return Config(values, path)


def _optional(path: Path) -> Config:
    return read_config(path) if path.is_file() else Config({}, path)


def _locate(source: str | Path, revision: str | None) -> tuple[Path, str | None]:
    path = Path(source)
    if path.is_dir():
        return path, revision
    if path.exists():
        raise IncompleteSource(f"{path} is a file; an import reads the folder that holds config.json.")
    if isinstance(source, str) and hub.looks_like_hub_id(source) and not source.startswith(("./", "../")):
        return hub.fetch(source, revision)
    raise IncompleteSource(
        f"{path} does not exist. Give a folder, or a Hub id such as org/name or org/name@revision."
    )


def _module_entries(path: Path) -> list[tuple[str, str]]:
    """Return (kind, folder) of each sentence-transformers module, in the order they run."""
    if not path.is_file():
        return []
    try:
        listed = sorted(json.loads(path.read_bytes()), key=lambda entry: int(entry["idx"]))
        entries = [(str(entry["type"]).rpartition(".")[2], str(entry["path"])) for entry in listed]
    except (ValueError, KeyError, TypeError) as error:
        raise IncompleteSource(f"{path} is not a valid list of modules ({error}).") from error
    # sentence-transformers 5 has a class of its own for what ends in a language model's logits.
    if not entries or entries[0][0] not in ("Transformer", "MLMTransformer"):
        first = entries[0][0] if entries else "nothing"
        raise UnsupportedModel(
            f"{path} starts with {first}; only models that start with a Transformer can be built."
        )
    if any(".." in Path(folder).parts or Path(folder).is_absolute() for _, folder in entries):
        raise IncompleteSource(f"{path} names a folder outside the model.")
    return entries


def _module(root: Path, kind: str, path: str) -> SentenceModule:
    return SentenceModule(kind, root / path, _optional(root / path / "config.json"))
