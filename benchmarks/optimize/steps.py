"""A step of fine-tuning, beside the same step written plainly with transformers."""

from __future__ import annotations

import json
import random
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.record import Result, figure
from benchmarks.texts import distinct_short_texts
from tremplin.machine import read_machine
from tremplin.optimize.bundled import import_bundled
from tremplin.optimize.network.from_graph import read_network
from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.training.batches import epoch_batches, padded
from tremplin.optimize.training.fine_tune import with_classifier
from tremplin.optimize.training.loop import Schedule, train
from tremplin.optimize.training.objectives import classification_loss

LABELS, STEPS, ROWS = 150, 12, 64


def run(rounds: int = 3) -> Result:
    """Time both in turn, on the same batches."""
    import tempfile

    torch.set_num_threads(read_machine().cores)
    with tempfile.TemporaryDirectory() as folder:
        imported = import_bundled(Path(folder))
        network = read_network(imported.onnx_path)
        rows = _rows(imported.tokenizer_path)
    draw = random.Random(0)
    targets = torch.tensor([draw.randrange(LABELS) for _ in rows])
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_ours(network, rows, targets))
        theirs.append(_theirs(network, rows, targets))
    return Result(
        scenario="Optimising: a step of fine-tuning",
        setting=(
            f"MiniLM, {ROWS} CLINC150 queries a step, {STEPS} steps a round, all cores; the loop of "
            "`train --method fine-tune` without evaluations, and transformers' model with AdamW, clipping and "
            "the same padded batches; turn by turn."
        ),
        figures=[
            figure(
                "a step here / a plain step", [a / b for a, b in zip(ours, theirs, strict=True)], "", at_most=1.05
            ),
            figure("a step here", [1e3 * value for value in ours], "ms"),
            figure("a plain step", [1e3 * value for value in theirs], "ms"),
        ],
    )


def _rows(tokenizer_path: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    _, texts = distinct_short_texts()
    return [encoding.ids for encoding in tokenizer.encode_batch(texts[: STEPS * ROWS])]


def _ours(network: object, rows: list[list[int]], targets: torch.Tensor) -> float:
    labels = tuple(str(number) for number in range(LABELS))
    module = TorchNetwork(with_classifier(network, labels, seed=0), dropout=0.1)  # type: ignore[arg-type]
    seconds: list[float] = []
    last = [0.0]

    def loss_of(numbers: np.ndarray) -> torch.Tensor:
        now = time.perf_counter()
        if last[0]:
            seconds.append(now - last[0])
        last[0] = now
        logits = module(*padded(rows, numbers)).logits
        return classification_loss(logits, targets[torch.from_numpy(numbers)], smoothing=0.1)

    lengths = np.array([len(row) for row in rows])
    train(module, lengths, loss_of, lambda: 0.0, Schedule(epochs=1, batch_rows=ROWS))
    return statistics.median(seconds[1:])


def _theirs(network: object, rows: list[list[int]], targets: torch.Tensor) -> float:
    spec = network.spec  # type: ignore[attr-defined]
    config = BertConfig(
        vocab_size=spec.vocab_size, hidden_size=spec.hidden_size, num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads, intermediate_size=spec.feed_forward_size, num_labels=LABELS,
    )  # fmt: skip
    model = BertForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, fused=True)
    lengths = np.array([len(row) for row in rows])
    seconds = []
    for numbers in epoch_batches(lengths, ROWS, seed=0, epoch=0):
        started = time.perf_counter()
        ids, mask = padded(rows, numbers)
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = torch.nn.functional.cross_entropy(logits, targets[torch.from_numpy(numbers)], label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    print(json.dumps([one.__dict__ for one in run().figures], indent=1))
