"""What a teacher answered is kept beside its stage: students are taught the same texts again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tremplin.optimize.network.torch_network import TorchNetwork
from tremplin.optimize.recipes.stage import Stage
from tremplin.optimize.training.answers import SentenceAnswers, answer
from tremplin.progress import Progress, silent
from tremplin.registry.files import write_atomically
from tremplin.serve.tokenize import TextTokenizer

BLOCK = 8_192
"""Texts answered between two times of writing: what a killed run loses at most."""


def teacher_answers(
    teacher: Stage, texts: Sequence[str], progress: Progress = silent
) -> tuple[SentenceAnswers, list[list[int]]]:
    """Return the teacher's answers to texts, in order, and the texts as it reads them.

    Texts are known by their digest; only new ones are answered.
    """
    rows = [list(ids) for ids in TextTokenizer(teacher.tokenizer, teacher.interface).encode(texts).ids]
    names = np.array(
        [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16] for text in texts], "S16"
    )
    file = teacher.folder.parent / f"{teacher.key}.answers.npz"
    known, logits, embeddings = _load(file)
    place = {name: at for at, name in enumerate(known.tolist())}
    missing = [at for at, name in enumerate(names.tolist()) if name not in place]
    module = TorchNetwork(teacher.network()) if missing else None
    for start in range(0, len(missing), BLOCK):
        block = missing[start : start + BLOCK]
        found = answer(module, [rows[at] for at in block]) if module is not None else None
        if found is None:
            break
        known = np.concatenate([known, names[block]])
        logits = np.concatenate([logits, found.logits]) if len(logits) else found.logits
        embeddings = np.concatenate([embeddings, found.embeddings]) if len(embeddings) else found.embeddings
        _keep(file, known, logits, embeddings)
        progress("ask the teacher", (start + len(block)) / len(missing))
    place = {name: at for at, name in enumerate(known.tolist())}
    order = [place[name] for name in names.tolist()]
    return SentenceAnswers(logits[order], embeddings[order]), rows


def _load(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        with np.load(file) as kept:
            return kept["names"], kept["logits"], kept["embeddings"]
    except (OSError, ValueError, KeyError):  # none yet, or damaged: they can be asked again
        return np.zeros(0, "S16"), np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)


def _keep(file: Path, names: np.ndarray, logits: np.ndarray, embeddings: np.ndarray) -> None:
    import io

    packed = io.BytesIO()
    np.savez(packed, names=names, logits=logits, embeddings=embeddings)
    write_atomically(file, packed.getvalue())


def _digest(text: str) -> bytes:
    # In hexadecimal: NumPy drops zero bytes at the end of a string.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16].encode()
