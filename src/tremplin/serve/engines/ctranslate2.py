"""CTranslate2 on the CPU: the encoder in int8, what follows it in the version's own graph.

CTranslate2 reads no ONNX. ``optimize/ctranslate2.py`` prepares a folder for it: the encoder's weights in its
format, and the *tail* of the version's graph (pooling, normalisation, head), which ONNX Runtime runs on the
hidden states.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
from pydantic import TypeAdapter, ValidationError

from tremplin.errors import EngineFailed, MissingExtra
from tremplin.machine import read_machine
from tremplin.registry.files import sha256_of
from tremplin.serve.engine import Outputs, TokenBatch, pad
from tremplin.serve.engines import failures
from tremplin.serve.engines.feeds import check_ids, feeds_of
from tremplin.serve.engines.onnx_runtime import open_session
from tremplin.serve.engines.overflow import products_overflow

RUNTIME = "CTranslate2"
EXTRA = "CTranslate2 is not installed: pip install 'tremplin[ctranslate2]'"

TAIL_FILE = "tail.onnx"
PREPARED_FILE = "prepared.json"
HIDDEN_STATES = "hidden_states"
"""The tail's input: (rows, tokens, hidden) float32."""

# Activations are quantized in each batch, one scale per token, and sums leave as float32.
COMPUTE_TYPE = "int8_float32"


@dataclass(frozen=True)
class Recipe:
    """What a prepared folder was made from; another recipe makes another folder."""

    encoder_sha256: str
    """Of the graph with the float32 weights."""
    graph_sha256: str
    """Of the version's own graph, whose tail it is."""
    format: int = 1
    """Of the folder; it grows when what ``optimize/ctranslate2.py`` writes changes."""


@dataclass(frozen=True)
class Prepared:
    """What ``prepared.json`` says of the folder it lies in."""

    recipe: Recipe
    vocab_size: int
    has_token_types: bool
    sha256: dict[str, str]
    """Of the other files, by name."""


_ADAPTER = TypeAdapter(Prepared)


def read_prepared(folder: Path) -> Prepared:
    """Return what a prepared folder is, its files checked; raises EngineFailed when one is missing or differs."""
    try:
        prepared = _ADAPTER.validate_json((folder / PREPARED_FILE).read_bytes())
        damaged = [name for name, digest in prepared.sha256.items() if sha256_of(folder / name) != digest]
    except (OSError, ValidationError):
        damaged = [PREPARED_FILE]
    if damaged:
        raise EngineFailed(
            f"{RUNTIME} cannot open the version: {damaged[0]} of the files prepared for it is missing or damaged. "
            "They are made again at the next start; if that does not help, publish the version again."
        )
    return prepared


def write_prepared(folder: Path, recipe: Recipe, *, vocab_size: int, has_token_types: bool) -> None:
    """Seal a folder: write down its recipe and the digest of each file in it."""
    digests = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
    prepared = Prepared(recipe, vocab_size, has_token_types, digests)
    (folder / PREPARED_FILE).write_bytes(_ADAPTER.dump_json(prepared, indent=1))


class Ctranslate2Engine:
    """One encoder; ``streams`` batches are computed at the same time, with ``threads`` threads each.

    An answer does not depend on its batch neighbours: each token is quantized with a scale of its own.
    A token of the text that is the padding token itself ("<pad>" typed by a user) gets the next position, where
    RoBERTa gives it the position of padding; such a text's answer differs from the other engines'.
    """

    def __init__(self, prepared: Path, *, threads: int, streams: int = 1) -> None:
        """Remember the folder to load; raises MissingExtra when CTranslate2 is not installed."""
        self._ctranslate2 = _import()
        self._folder = prepared
        self._threads = threads
        self._streams = streams
        self._encoder: Any = None
        self._tail: ort.InferenceSession | None = None
        self._prepared: Prepared | None = None
        self._tail_inputs: tuple[str, ...] = ()
        self.inputs: tuple[str, ...] = ()
        """Names of the version's inputs, known once it is loaded."""
        self.outputs: tuple[str, ...] = ()
        """Names of the graph's outputs, known once it is loaded."""

    @property
    def name(self) -> str:
        """The engine and its version."""
        return f"ctranslate2 {self._ctranslate2.__version__}"

    def load(self) -> None:
        """Open the prepared files; raises EngineFailed when one is missing or not what was written."""
        # Digests first: CTranslate2 trusts the sizes in its file and reads wherever they point.
        prepared = read_prepared(self._folder)
        try:
            encoder = self._ctranslate2.Encoder(
                str(self._folder),
                compute_type=COMPUTE_TYPE,
                inter_threads=self._streams,
                intra_threads=self._threads,
            )
            tail = open_session(
                self._folder / TAIL_FILE, self._threads, is_precise=products_overflow(read_machine())
            )
        except Exception as error:  # both bindings raise classes that say nothing
            raise failures.cannot_open(RUNTIME, error, self._folder) from None
        self._tail_inputs = tuple(node.name for node in tail.get_inputs())
        self.inputs = ("input_ids", "attention_mask", *(["token_type_ids"] if prepared.has_token_types else []))
        self.outputs = tuple(node.name for node in tail.get_outputs())
        self._encoder, self._tail, self._prepared = encoder, tail, prepared

    def warm_up(self) -> None:
        """Run a short text alone and a small batch."""
        self.run(pad([[1, 1, 1]]))
        self.run(pad([[1] * 16] * 4))

    def run(self, batch: TokenBatch) -> Outputs:
        """Return every output of the graph for a batch; its mask must be padded on the right, as ``pad`` does."""
        if self._encoder is None or self._tail is None or self._prepared is None:
            raise failures.not_loaded()
        check_ids(RUNTIME, batch, self._prepared.vocab_size)  # CTranslate2 would read another part of the memory
        try:
            hidden = self._hidden_states(batch, has_token_types=self._prepared.has_token_types)
            arrays = self._tail.run(self.outputs, self._tail_feeds(batch, hidden))
        except Exception as error:
            raise failures.cannot_run(RUNTIME, error, batch.rows, batch.width) from None
        return dict(zip(self.outputs, arrays, strict=True))

    def health(self) -> bool:
        """Return whether an encoder is loaded."""
        return self._encoder is not None

    def close(self) -> None:
        """Drop the encoder, the tail and their memory."""
        self._encoder = self._tail = self._prepared = None

    def _hidden_states(self, batch: TokenBatch, *, has_token_types: bool) -> Any:
        """Return the encoder's last hidden states, (rows, tokens, hidden) float32, and anything for padding."""
        view = self._ctranslate2.StorageView.from_array
        ids = np.ascontiguousarray(batch.input_ids, np.int32)
        lengths = batch.attention_mask.sum(axis=1, dtype=np.int32)
        types = None
        if has_token_types:
            of_batch = batch.token_type_ids
            types = (np.zeros_like(ids) if of_batch is None else of_batch).tolist()
        return self._encoder.forward_batch(view(ids), view(lengths), types).last_hidden_state

    def _tail_feeds(self, batch: TokenBatch, hidden: Any) -> dict[str, Any]:
        """Return the tail's inputs; the array is a view of CTranslate2's memory, which ``hidden`` keeps alive."""
        feeds: dict[str, Any] = {**feeds_of(batch, self.inputs), HIDDEN_STATES: np.asarray(hidden)}
        return {name: feeds[name] for name in self._tail_inputs}


def _import() -> ModuleType:
    """Return the package; raises MissingExtra when it is not there."""
    try:
        return importlib.import_module("ctranslate2")
    except ImportError:
        raise MissingExtra(EXTRA) from None
