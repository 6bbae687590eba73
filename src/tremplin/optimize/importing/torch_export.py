"""Architectures that no builder knows: exported by torch from transformers, the head written by Tremplin.

The dynamo exporter is used at opset 20: at 23 it writes Attention nodes that ONNX Runtime 1.31 refuses with a
(batch, 1, 1, tokens) mask, and the older tracing exporter freezes a DeBERTa at the length it was traced with
(measured: outputs off by 2.7 at another length, without a word). Parity decides in the end.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tremplin.errors import MissingExtra, UnsupportedModel
from tremplin.optimize.importing import heads
from tremplin.optimize.importing.build import BuiltGraph, graph_metadata
from tremplin.optimize.importing.checkpoint import Checkpoint
from tremplin.optimize.importing.encoder_graph import PAIR_TASKS
from tremplin.optimize.importing.graph_writer import MAX_ONE_FILE_BYTES, GraphWriter
from tremplin.optimize.importing.sentence_modules import read_embedding_steps, read_splade_pooling
from tremplin.optimize.importing.tokenizer import prepare_tokenizer, token_limit
from tremplin.registry.task import Task

if TYPE_CHECKING:
    import onnx

BUILT_BY_TORCH = "torch.onnx"
OPSET = 20
RAW_OUTPUT = "encoder_output"
EXAMPLE_SHAPE = (2, 12)  # both axes are declared free; neither may be 0 or 1 in the example
DEFAULT_POSITIONS = 512


def export_graph(checkpoint: Checkpoint, task: Task, *, token_embeddings: bool = False) -> BuiltGraph:
    """Return the graph of a checkpoint, its encoder exported by torch, not yet proven.

    Raises MissingExtra without torch, transformers and onnxscript, UnsupportedModel when torch cannot export
    the architecture, IncompleteSource when the checkpoint lacks weights of the task's head.
    """
    _require_torch(checkpoint)
    from tremplin.optimize.importing.transformers_reference import load_model, quiet

    labels = heads.read_labels(checkpoint, task)
    config = checkpoint.config
    with quiet():
        model = load_model(checkpoint, task)
        token_types = task in PAIR_TASKS and config.integer("type_vocab_size", default=0) > 1
        exported = _export(checkpoint, model, task, token_types)
    rows = int(model.get_input_embeddings().weight.shape[0])
    limit = token_limit(checkpoint, config.integer("max_position_embeddings", default=DEFAULT_POSITIONS))
    tokenizer = prepare_tokenizer(checkpoint, max_tokens=limit, embedding_rows=rows)
    writer = GraphWriter(exported)
    match task:
        case Task.EMBEDDING:
            width = int(model.config.hidden_size)
            steps = read_embedding_steps(checkpoint, width)
            shapes = heads.write_embedding(writer, RAW_OUTPUT, steps, width, token_embeddings=token_embeddings)
        case Task.SPARSE_EMBEDDING:
            shapes = heads.write_splade(writer, RAW_OUTPUT, read_splade_pooling(checkpoint), rows)
        case Task.CLASSIFICATION | Task.RERANKING:
            shapes = heads.write_answer(writer, RAW_OUTPUT, labels, ["batch"])
        case Task.TOKEN_CLASSIFICATION:
            shapes = heads.write_answer(writer, RAW_OUTPUT, labels, ["batch", "tokens"])
        case Task.QUESTION_ANSWERING:
            shapes = heads.write_span(writer, RAW_OUTPUT)
    return BuiltGraph(
        model=writer.model(_input_names(token_types), shapes, graph_metadata(task, labels, tokenizer)),
        labels=labels,
        embedding_dim=int(shapes["embedding"][1]) if task is Task.EMBEDDING else None,
        vocab_size=rows,
        needs_token_type_ids=token_types,
        tokenizer=tokenizer,
        built_by=BUILT_BY_TORCH,
    )


def _require_torch(checkpoint: Checkpoint) -> None:
    try:
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"Tremplin has no builder for {checkpoint.model_type!r}; torch can export it, but {error.name} is "
            "not installed: install torch for your machine, then pip install 'tremplin[optimize]'."
        ) from error


def _input_names(token_types: bool) -> list[str]:
    return ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]


def _export(checkpoint: Checkpoint, model: Any, task: Task, token_types: bool) -> onnx.ModelProto:
    """Return the encoder (with its task layers) as ONNX, its one output named RAW_OUTPUT."""
    import onnx
    import torch
    from onnx import compose

    names = _input_names(token_types)
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    example = tuple(torch.ones(EXAMPLE_SHAPE, dtype=torch.long) for _ in names)
    size_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        try:
            torch.onnx.export(
                _raw_output(model, task, names), example, path,
                input_names=names, output_names=[RAW_OUTPUT], dynamic_shapes=((free,) * len(names),),
                dynamo=True, opset_version=OPSET, verbose=False,
                external_data=size_bytes > MAX_ONE_FILE_BYTES,
            )  # fmt: skip
        except Exception as error:  # the exporter raises many classes of its own
            raise UnsupportedModel(
                f"torch {torch.__version__} cannot export {checkpoint.model_type!r} to ONNX "
                f"({type(error).__name__}). Import a checkpoint of another architecture, or report this one."
            ) from error
        exported = onnx.load(path)
    if exported.functions:
        raise UnsupportedModel(f"The export of {checkpoint.model_type!r} holds functions that were not inlined.")
    # The exporter names tensors after modules; a prefix keeps them apart from the head's ("embedding").
    return compose.add_prefix(exported, "torch.", rename_inputs=False, rename_outputs=False)


def _raw_output(model: Any, task: Task, names: list[str]) -> Any:
    """Return a module that takes the graph's inputs in order and gives the tensor the head continues from."""
    import torch

    class RawOutput(torch.nn.Module):  # type: ignore[misc]  # torch is optional, so untyped here
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *columns: torch.Tensor) -> torch.Tensor:
            output = self.model(**dict(zip(names, columns, strict=True)))
            if task is Task.EMBEDDING:
                return output.last_hidden_state
            if task is Task.QUESTION_ANSWERING:
                return torch.stack((output.start_logits, output.end_logits), dim=-1)
            return output.logits

    return RawOutput()
