"""Training a classifier of words (names, places, ...) and publishing it with its evidence."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from tremplin.optimize.network.from_graph import read_network
from tremplin.optimize.network.to_graph import write_network
from tremplin.optimize.publish import check_model_name
from tremplin.optimize.recipes.steps import FineTune, need_torch
from tremplin.optimize.recipes.token_file import LabelledWords, token_targets
from tremplin.optimize.training.objectives import IGNORED
from tremplin.progress import Progress
from tremplin.registry.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from tremplin.registry.passport import Bound, Metric, Quality, share_metric
from tremplin.registry.store import Registry
from tremplin.registry.task import Task
from tremplin.serve.engine import pad
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine

SOFTWARE = ("onnxruntime", "onnx", "numpy", "tokenizers", "torch")
BATCH_ROWS = 32


def train_words(
    registry: Registry,
    source: Manifest,
    data: LabelledWords,
    model: str,
    step: FineTune,
    *,
    run: Path,
    threads: int,
    seed: int,
    progress: Progress,
) -> Manifest:
    """Fine-tune a classifier of words on an encoder, judge it on held-out texts and publish it."""
    from tokenizers import Tokenizer

    check_model_name(model)
    need_torch(threads)
    from tremplin.optimize.training.fine_tune import TokenLesson, fine_tune_tokens

    tokenizer = Tokenizer.from_file(str(registry.path(source, TOKENIZER_FILE)))
    tokenizer.no_padding()
    tokenizer.enable_truncation(source.interface.max_tokens)
    parts = data.split(seed=seed)
    lessons = []
    for part in parts:
        encoded = tokenizer.encode_batch([list(words) for words in part.words], is_pretokenized=True)
        targets = [
            token_targets(e.word_ids, labels, data.label_names)
            for e, labels in zip(encoded, part.labels, strict=True)
        ]
        lessons.append(TokenLesson([list(e.ids) for e in encoded], targets))
    run.mkdir(parents=True, exist_ok=True)
    network, training = fine_tune_tokens(
        read_network(registry.path(source, MODEL_FILE)),
        lessons[0],
        lessons[1],
        data.label_names,
        step.tuning(seed),
        checkpoint=run / "words.checkpoint",
        progress=progress,
    )
    with tempfile.TemporaryDirectory(prefix="tremplin-") as folder:
        graph = Path(folder) / MODEL_FILE
        write_network(network, graph)
        metrics = _metrics(graph, lessons[2].rows, lessons[2].targets, data.label_names)
        majority = _majority(lessons[0].targets)
        return registry.publish(
            Manifest(
                model=model,
                version=registry.next_version(model, "fp32"),
                precision="fp32",
                interface=replace(
                    source.interface, task=Task.TOKEN_CLASSIFICATION, labels=data.label_names, embedding_dim=None
                ),
                origin=replace(
                    source.origin, source=source.ref, recipe=(*source.origin.recipe, "fine-tune-words")
                ),
                artefacts=(),
                quality=Quality(
                    "held-out labels", data.source, "", seed, metrics,
                    (Bound("word_accuracy", at_least=majority),),
                    {name: installed(name) for name in SOFTWARE},
                ),
                report={"training": training.as_json()},
            ),
            {MODEL_FILE: graph, TOKENIZER_FILE: registry.path(source, TOKENIZER_FILE)},
        )  # fmt: skip


def entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return the entities of a row of BIO labels as (kind, first, last); a plain label is an entity of its own.

    >>> sorted(entities(["O", "B-PER", "I-PER", "B-PER", "I-LOC"]))
    [('LOC', 4, 4), ('PER', 1, 2), ('PER', 3, 3)]
    """
    found: set[tuple[str, int, int]] = set()
    kind, first = "", 0
    for at, label in enumerate([*labels, "O"]):
        begins, _, name = label.partition("-") if label[:2] in ("B-", "I-") else ("B", "", label)
        if kind and (label == "O" or begins == "B" or name != kind):
            found.add((kind, first, at - 1))
            kind = ""
        if label != "O" and not kind:
            kind, first = name, at
    return found


def _metrics(
    graph: Path, rows: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], names: Sequence[str]
) -> tuple[Metric, ...]:
    """Return the accuracy over words and the F1 over whole entities, on the written graph."""
    engine = OnnxRuntimeEngine(graph, threads=1)
    engine.load()
    right = words = both = claimed = real = 0
    for start in range(0, len(rows), BATCH_ROWS):
        answers = engine.run(pad(rows[start : start + BATCH_ROWS]))["probabilities"].argmax(axis=-1)
        for row, wanted in zip(answers, targets[start : start + BATCH_ROWS], strict=True):
            judged = [at for at, target in enumerate(wanted) if target != IGNORED]
            said = [names[int(row[at])] for at in judged]
            true = [names[wanted[at]] for at in judged]
            right += sum(a == b for a, b in zip(said, true, strict=True))
            words += len(judged)
            ours, theirs = entities(said), entities(true)
            both, claimed, real = both + len(ours & theirs), claimed + len(ours), real + len(theirs)
    engine.close()
    # F1 is 2 x both / (claimed + real): as a share of so many trials it has a Wilson interval, nearly right.
    return (
        share_metric("word_accuracy", right, max(words, 1)),
        share_metric("entity_f1", 2 * both, max(claimed + real, 1)),
    )


def _majority(targets: Sequence[Sequence[int]]) -> float:
    flat = np.array([target for row in targets for target in row if target != IGNORED])
    return float(np.bincount(flat).max() / len(flat))
