"""Tensors of a checkpoint: safetensors files, one or several, read by name.

Only safetensors is read. A pickle runs whatever code its author put in it, so it is refused before a byte
of it is opened.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tremplin.errors import IncompleteSource, UnsafeWeights

Floats = npt.NDArray[np.float32]

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")

# Checkpoints converted from TensorFlow before 2020 name a normalisation's scale and shift like this.
LEGACY_NAMES = ((".weight", ".gamma"), (".bias", ".beta"))

HOW_TO_CONVERT = (
    "On a machine where you trust the file, write it again as safetensors: "
    'python -c "from transformers import AutoModel as M; '
    'M.from_pretrained({folder!r}).save_pretrained({safe!r})" '
    "(use the AutoModelFor... class of the task to keep its head), copy the tokenizer files beside it, "
    "and import that folder."
)  # fmt: skip


class Weights:
    """The tensors of one module, opened lazily: a header is read at once, values when asked for.

    Raises UnsafeWeights when the folder holds only pickles, IncompleteSource when it holds no weights, or
    when a file is missing, truncated or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.files = _weight_files(folder)
        self._file_of: dict[str, Path] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            self._read_header(path)

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._file_of)

    def __contains__(self, name: str) -> bool:
        return self._stored_name(name) is not None

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the stored shape of a tensor; raises IncompleteSource when there is none of this name."""
        return self._shapes[self._require(name)]

    def read(self, name: str, shape: Sequence[int] | None = None) -> Floats:
        """Return a tensor as contiguous float32, whatever float type it is stored in.

        Raises IncompleteSource when it is absent, or when its shape is not the one ``config.json`` implies.
        """
        from safetensors import safe_open

        stored = self._require(name)
        if shape is not None and self._shapes[stored] != tuple(shape):
            raise IncompleteSource(
                f"Tensor {stored!r} in {self._file_of[stored].name} has shape {self._shapes[stored]}, but "
                f"config.json implies {tuple(shape)}: the two belong to different models."
            )
        # bfloat16 becomes a NumPy type when ml_dtypes is imported (onnx depends on it).
        import ml_dtypes  # noqa: F401

        with safe_open(self._file_of[stored], framework="np") as opened:
            tensor: npt.NDArray[np.generic] = opened.get_tensor(stored)
        values = np.ascontiguousarray(tensor, dtype=np.float32)
        if not np.isfinite(values).all():
            raise IncompleteSource(f"Tensor {stored!r} holds values that are not finite: the file is damaged.")
        return values

    def sha256(self) -> str:
        """Digest of the weights file; for several files, of their digests in name order."""
        digests = [_sha256(path) for path in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()

    def _require(self, name: str) -> str:
        stored = self._stored_name(name)
        if stored is None:
            raise IncompleteSource(
                f"Tensor {name!r} is missing from {', '.join(path.name for path in self.files)} "
                f"({len(self._file_of)} tensors there). Save the model again with its complete weights."
            )
        return stored

    def _stored_name(self, name: str) -> str | None:
        if name in self._file_of:
            return name
        for modern, legacy in LEGACY_NAMES:
            if name.endswith(modern) and (old := name.removesuffix(modern) + legacy) in self._file_of:
                return old
        return None

    def _read_header(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118 (a file handle, not a dict)
                    self._file_of[name] = path
                    self._shapes[name] = tuple(opened.get_slice(name).get_shape())
        except (SafetensorError, OSError) as error:
            raise IncompleteSource(
                f"{path} is not a complete safetensors file ({error}); probably cut short: fetch it again."
            ) from error


def _weight_files(folder: Path) -> tuple[Path, ...]:
    if (folder / WEIGHTS_FILE).is_file():
        return (folder / WEIGHTS_FILE,)
    if (folder / INDEX_FILE).is_file():
        return _shards(folder / INDEX_FILE)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UnsafeWeights(
            f"{folder} holds its weights only as pickle ({', '.join(pickles)}), a format that can run code "
            "when it is read; Tremplin reads only safetensors. "
            + HOW_TO_CONVERT.format(folder=str(folder), safe=f"{folder}-safetensors")
        )
    raise IncompleteSource(
        f"{folder} holds neither {WEIGHTS_FILE} nor {INDEX_FILE}. Give a folder written by save_pretrained, "
        "with its weights as safetensors (an adapter must be merged into its model first)."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise IncompleteSource(f"{index} is not a valid index of weight files ({error}).") from error
    shards = tuple(index.parent / Path(name).name for name in names)
    missing = [path.name for path in shards if not path.is_file()]
    if missing or not shards:
        raise IncompleteSource(
            f"{index} names weight files that are not there: {', '.join(missing) or 'none named'}."
        )
    return shards


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
