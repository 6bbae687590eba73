"""The documents' vectors: computed once for a version, read afterwards, never wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.conftest import TinyServer
from tremplin.serve.documents import DocumentIndex
from tremplin.serve.infer import Inference, Inferencer
from tremplin.tasks.search import Document

DOCUMENTS = [Document("1", "red", "blue"), Document("2", "blue", "red red")]


@pytest.fixture
def encoder(tiny_server: TinyServer) -> Inferencer:
    return tiny_server().services.fleet.find("tiny")


async def test_vectors_are_computed_once_and_read_afterwards(
    encoder: Inferencer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (await DocumentIndex.of(encoder, DOCUMENTS, tmp_path)).vectors

    async def never(*_: object, **__: object) -> Inference:
        raise AssertionError("the kept vectors were there")

    monkeypatch.setattr(encoder, "infer", never)
    np.testing.assert_array_equal((await DocumentIndex.of(encoder, DOCUMENTS, tmp_path)).vectors, first)
    assert first.shape == (2, 4)


async def test_other_documents_are_other_vectors(encoder: Inferencer, tmp_path: Path) -> None:
    await DocumentIndex.of(encoder, DOCUMENTS, tmp_path)
    await DocumentIndex.of(encoder, DOCUMENTS[:1], tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
async def test_a_damaged_file_is_computed_again(encoder: Inferencer, tmp_path: Path, damage: bytes | None) -> None:
    expected = (await DocumentIndex.of(encoder, DOCUMENTS, tmp_path)).vectors
    file = next(tmp_path.glob("*.npy"))
    if damage is None:
        np.save(file, np.zeros((5, 3), np.float32))
    else:
        file.write_bytes(damage)
    np.testing.assert_array_equal((await DocumentIndex.of(encoder, DOCUMENTS, tmp_path)).vectors, expected)
