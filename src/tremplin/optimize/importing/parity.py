"""Proof that a graph answers as its source does, on real text; without it nothing is imported.

Compared: the names and order of labels, the outputs and their shapes, every number within a tolerance, the
label that comes out, unit length where the source normalises. The graph runs on padded batches of mixed
lengths and the reference does not, so an answer that leaks from padding or from a neighbour shows too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tremplin.errors import ParityFailed
from tremplin.machine import usable_cores
from tremplin.optimize.importing.reference import Answers, Reference, Text
from tremplin.optimize.importing.tokenizer import read_tokenizer
from tremplin.optimize.importing.weights import Floats

if TYPE_CHECKING:
    import onnxruntime as ort

TOLERANCE = 1e-4  # on logits and vectors of any length; float32 rounding alone stays near 1e-6
# Probabilities and unit vectors are held to a tenth of it: in a shallow model, the wrong one of the two gelu
# formulas moves them by less than 1e-4 (measured: 3e-4 on MiniLM's six layers, 8e-5 on two).
BOUNDED_SHARE = 0.1
UNIT_LENGTH_TOLERANCE = 1e-3
BATCH = 4  # mixed lengths, so padding is exercised; larger only costs time when one text is long

LABELS_KEY = "tremplin.labels"
TASK_KEY = "tremplin.task"
MULTI_LABEL_KEY = "tremplin.multi_label"
MAX_TOKENS_KEY = "tremplin.max_tokens"
PADDING_KEY = "tremplin.padding_id"

TOKEN_OUTPUTS = ("start_logits", "end_logits")


@dataclass(frozen=True)
class ParityReport:
    """How far a graph is from its source."""

    max_abs_difference: float
    label_agreement: float
    """Share of answers whose label is the source's; 1.0 when the task has no labels."""
    n: int
    """Texts compared."""
    reference_name: str
    tolerance: float = TOLERANCE


@dataclass(frozen=True)
class GraphFiles:
    """A graph and the tokenizer that travels with it."""

    onnx_path: Path
    tokenizer_path: Path


class GraphUnderTest:
    """A graph that answers text as serving does: tokenize, pad on the right, run, cut the padding off."""

    def __init__(self, files: GraphFiles) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        # ORT's default pool leaves the CPU affinity it was given.
        options.intra_op_num_threads = usable_cores()[0]
        try:
            self.session: ort.InferenceSession = ort.InferenceSession(
                str(files.onnx_path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ORT raises a dozen pybind classes of its own
            raise ParityFailed(f"ONNX Runtime does not load {files.onnx_path}: {error}") from error
        self.tokenizer = read_tokenizer(files.tokenizer_path)
        self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.outputs = [entry.name for entry in self.session.get_outputs()]

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names as the graph carries them."""
        return tuple(json.loads(self.metadata.get(LABELS_KEY, "[]")))

    def answer(self, texts: Sequence[Text]) -> Answers:
        """Return each output for each text, without padding."""
        answers: dict[str, list[Floats]] = {name: [] for name in self.outputs}
        for start in range(0, len(texts), BATCH):
            self._answer_batch(texts[start : start + BATCH], answers)
        return answers

    def _answer_batch(self, texts: Sequence[Text], answers: dict[str, list[Floats]]) -> None:
        encoded = [self.tokenizer.encode(*((text,) if isinstance(text, str) else text)) for text in texts]
        lengths = [len(one.ids) for one in encoded]
        padding = int(self.metadata.get(PADDING_KEY, "0"))
        columns = {
            "input_ids": _pad([one.ids for one in encoded], padding),
            "attention_mask": _pad([[1] * length for length in lengths], 0),
            "token_type_ids": _pad([one.type_ids for one in encoded], 0),
        }
        try:
            values = self.session.run(self.outputs, {name: columns[name] for name in self.inputs})
        except Exception as error:  # an id beyond the table, a shape that does not fit
            raise ParityFailed(
                f"The graph does not run on {len(texts)} texts of up to {max(lengths)} tokens: {error}"
            ) from error
        for name, value in zip(self.outputs, values, strict=True):
            per_token = name in TOKEN_OUTPUTS or value.ndim == 3
            answers[name] += [
                row[:length] if per_token else row for row, length in zip(value, lengths, strict=True)
            ]


def check_parity(
    graph: GraphFiles, reference: Reference, texts: Sequence[Text], tolerance: float = TOLERANCE
) -> ParityReport:
    """Compare a graph with its source on ``texts`` and return the evidence.

    Raises ParityFailed when labels, outputs or shapes differ, when a number differs by more than
    ``tolerance`` (a tenth of it for probabilities and vectors of unit length), when a label comes out
    differently, or when embeddings lack the source's unit length.
    """
    tested = GraphUnderTest(graph)
    if tested.labels != reference.labels:
        raise ParityFailed(
            f"The graph's labels are {list(tested.labels)}, its source's {list(reference.labels)}, in this order."
        )
    expected, found = reference.answer(texts), tested.answer(texts)
    if set(expected) != set(found):
        raise ParityFailed(f"The graph gives {sorted(found)}, its source {sorted(expected)}.")
    differences = {name: _difference(name, found[name], expected[name]) for name in expected}
    if reference.is_normalized:
        _check_unit_length(found["embedding"])
    for name, difference in differences.items():
        is_bounded = name == "probabilities" or (name == "embedding" and reference.is_normalized)
        allowed = tolerance * BOUNDED_SHARE if is_bounded else tolerance
        if not difference <= allowed:
            raise ParityFailed(
                f"The graph's {name} differs from its source's by {difference:.3g} (allowed {allowed:g}) on "
                f"{len(texts)} texts, compared with {reference.name}. The graph is refused; when Tremplin has "
                "just built it, this is worth a bug report with the model's name."
            )
    agreement = _label_agreement(found, expected, tested.metadata.get(MULTI_LABEL_KEY) == "true", tolerance)
    if agreement < 1.0:
        raise ParityFailed(
            f"The graph gives the source's label for {agreement:.2%} of the answers, expected all of them."
        )
    return ParityReport(max(differences.values()), agreement, len(texts), reference.name, tolerance)


def _difference(name: str, found: Sequence[Floats], expected: Sequence[Floats]) -> float:
    worst = 0.0
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours.shape != theirs.shape:
            raise ParityFailed(
                f"Output {name!r} of text {index} has shape {ours.shape}, its source gives {theirs.shape}. "
                "When the first number differs, the tokenizer is not the source's."
            )
        if not np.isfinite(ours).all():
            raise ParityFailed(f"Output {name!r} of text {index} is not finite.")
        worst = max(worst, float(np.abs(ours - theirs).max(initial=0.0)))
    return worst


def _check_unit_length(vectors: Sequence[Floats]) -> None:
    lengths = [float(np.linalg.norm(vector)) for vector in vectors]
    worst = max(lengths, key=lambda length: abs(length - 1.0))
    if abs(worst - 1.0) > UNIT_LENGTH_TOLERANCE:
        raise ParityFailed(f"The source gives embeddings of length 1, the graph one of length {worst:.4g}.")


def _label_agreement(found: Answers, expected: Answers, multi_label: bool, tolerance: float) -> float:
    """Share of answers with the same label; a tie within the tolerance counts for the source."""
    if "probabilities" not in expected:
        return 1.0
    ours = np.concatenate([np.atleast_2d(row) for row in found["probabilities"]])
    theirs = np.concatenate([np.atleast_2d(row) for row in expected["probabilities"]])
    if multi_label:
        same = ((ours >= 0.5) == (theirs >= 0.5)) | (np.abs(theirs - 0.5) <= tolerance)
        return float(same.all(axis=1).mean())
    chosen = np.take_along_axis(theirs, ours.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float((chosen >= theirs.max(axis=1) - 2 * tolerance).mean())


def _pad(rows: Sequence[Sequence[int]], value: int) -> npt.NDArray[np.int64]:
    longest = max(map(len, rows))
    return np.array([[*row, *[value] * (longest - len(row))] for row in rows], dtype=np.int64)
