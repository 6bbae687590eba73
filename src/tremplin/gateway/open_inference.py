"""What the Open Inference Protocol, version 2, means here, whether it comes over REST or over gRPC.

Texts come as BYTES in the input ``text``, pairs of texts for a cross-encoder in rows of two; token ids as INT64 in
``input_ids``, ``attention_mask`` and ``token_type_ids``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tremplin.errors import MalformedBody, UnknownModel, UnknownName
from tremplin.gateway.tensors import Input, Output
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.call import Call
from tremplin.serve.infer import Inference, Inferencer
from tremplin.serve.services import Services

SERVER = "tremplin"
REPOSITORY_EXTENSION = "model_repository"

# The outputs a task's caller may ask for, with their type; labels are text.
OUTPUTS: dict[Task, dict[str, str]] = {
    Task.EMBEDDING: {"embedding": "FP32"},
    Task.SPARSE_EMBEDDING: {"sparse_embedding": "FP32"},
    Task.CLASSIFICATION: {"probabilities": "FP32", "label": "BYTES"},
    Task.RERANKING: {"scores": "FP32"},
}


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """What one input or output looks like; -1 stands for any size."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model reads and answers."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]
    parameters: dict[str, object]
    """What only REST has a place for."""


@dataclass(frozen=True, slots=True)
class IndexedVersion:
    """One version of the registry, and whether it serves now."""

    name: str
    version: str
    state: str
    reason: str


def find(services: Services, model: str, version: str | None) -> Inferencer:
    """Return the version that answers for a model; raises UnknownModel, for another version than that too."""
    inferencer = services.fleet.find(model, *OUTPUTS)
    if version is not None and version != inferencer.manifest.version:
        raise UnknownModel(
            f"Model {model[:80]!r} is served as version {inferencer.manifest.version}, not {version[:80]!r}."
        )
    return inferencer


def model_metadata(inferencer: Inferencer) -> ModelMetadata:
    """Return what a version reads and answers."""
    interface = inferencer.manifest.interface
    widths = {
        "embedding": [-1, interface.embedding_dim or -1],
        "sparse_embedding": [-1, interface.vocab_size],
        "probabilities": [-1, len(interface.labels)],
        "label": [-1],
        "scores": [-1, 1],
    }
    return ModelMetadata(
        name=inferencer.manifest.model,
        versions=[inferencer.manifest.version],
        platform="onnxruntime_onnx",
        inputs=[TensorMetadata("text", "BYTES", [-1, 2] if interface.task is Task.RERANKING else [-1])],
        outputs=[
            TensorMetadata(name, datatype, widths[name]) for name, datatype in OUTPUTS[interface.task].items()
        ],
        parameters={"labels": list(interface.labels), "precision": inferencer.manifest.precision},
    )


def index_versions(registry: Registry, services: Services, *, is_ready_only: bool) -> list[IndexedVersion]:
    """Return every version of the registry, or only those that serve now. Reads files."""
    healthy = {inferencer.manifest.ref: inferencer.engine.health() for inferencer in services.fleet.inferencers}
    rows = []
    for model in registry.models():
        for manifest in registry.versions(model):
            is_ready = healthy.get(manifest.ref, False)
            if is_ready or not is_ready_only:
                reason = "" if is_ready else ("unhealthy" if manifest.ref in healthy else "not loaded")
                state = "READY" if is_ready else "UNAVAILABLE"
                rows.append(IndexedVersion(model, manifest.version, state, reason))
    return rows


def check_outputs(names: Sequence[str], inferencer: Inferencer) -> list[str]:
    """Return the outputs to answer, all of them when none is named; raises UnknownName for one there is not."""
    offered = OUTPUTS[inferencer.manifest.interface.task]
    for name in names:
        if name not in offered:
            raise UnknownName(
                f"There is no output {name[:80]!r}; this model has: {', '.join(offered)}.", pointer="/outputs"
            )
    return list(names) or list(offered)


async def infer_inputs(inferencer: Inferencer, inputs: Mapping[str, Input], call: Call) -> Inference:
    """Return what a version answers to the inputs of a request, by their names."""
    if "text" in inputs:
        texts = _texts(inputs["text"])
        if inferencer.manifest.interface.task is Task.RERANKING:
            return await inferencer.infer_pairs(_pairs(inputs["text"], texts), call)
        return await inferencer.infer(texts, call)
    if "input_ids" not in inputs:
        raise MalformedBody("No input is named 'text' (BYTES) or 'input_ids' (INT64).", pointer="/inputs")
    rows = _token_rows(inputs, "input_ids")
    types = _token_rows(inputs, "token_type_ids") if "token_type_ids" in inputs else None
    if types is not None and not inferencer.manifest.interface.needs_token_type_ids:
        if any(map(any, types)):
            raise MalformedBody(
                "token_type_ids holds others than 0, and this model reads none.", pointer="/inputs"
            )
        types = None
    if types is not None and any(number not in (0, 1) for row in types for number in row):
        raise MalformedBody(
            "token_type_ids must hold 0 for the first text and 1 for the second.", pointer="/inputs"
        )
    return await inferencer.infer_ids(rows, call, types=types)


def output_of(name: str, inferencer: Inferencer, inference: Inference) -> Output:
    """Return one output of an inference."""
    if name == "label":
        labels = inferencer.manifest.interface.labels
        names = [labels[int(row.argmax())] for row in inference.output("probabilities")]
        return Output(name, "BYTES", [len(names)], names)
    array = inference.stacked(name)
    return Output(name, "FP32", list(array.shape), array)


def _texts(tensor: Input) -> list[str]:
    if tensor.datatype != "BYTES" or not all(isinstance(value, str) for value in tensor.values):
        raise MalformedBody("The input 'text' must be BYTES: strings in JSON.", pointer="/inputs")
    return tensor.values


def _pairs(tensor: Input, texts: list[str]) -> list[tuple[str, str]]:
    if len(tensor.shape) != 2 or tensor.shape[1] != 2:
        raise MalformedBody(
            f"The input 'text' has shape {tensor.shape}; this model reads pairs, [rows, 2].", pointer="/inputs"
        )
    return list(zip(texts[::2], texts[1::2], strict=True))


def _token_rows(inputs: Mapping[str, Input], name: str) -> list[list[int]]:
    """Return the rows of ``input_ids`` or of ``token_type_ids``, padding dropped by the mask when there is one."""
    tensor = inputs[name]
    if len(tensor.shape) != 2 or not all(type(value) is int for value in tensor.values):
        raise MalformedBody(f"{name} must be INT64 of shape [rows, tokens].", pointer="/inputs")
    if tensor.shape != inputs["input_ids"].shape:
        raise MalformedBody(f"{name} must have the shape of input_ids.", pointer="/inputs")
    if not tensor.values:
        return []
    ids = np.array(tensor.values).reshape(tensor.shape)
    if "attention_mask" not in inputs:
        return [row.tolist() for row in ids]
    mask = inputs["attention_mask"]
    if mask.shape != tensor.shape:
        raise MalformedBody("attention_mask must have the shape of input_ids.", pointer="/inputs")
    if not all(type(value) in (int, bool) for value in mask.values):
        raise MalformedBody("attention_mask must hold 1 for a token and 0 for padding.", pointer="/inputs")
    kept = np.array(mask.values).reshape(tensor.shape).astype(bool)
    return [row[keep].tolist() for row, keep in zip(ids, kept, strict=True)]
