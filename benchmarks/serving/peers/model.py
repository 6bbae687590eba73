"""The model the peers serve: the same weights, quantized as their users would do it.

The fp32 graph is the one Tremplin imports (attention not fused, pooling and normalisation inside), so the peers
need neither torch nor an exporter; int8 is ONNX Runtime's dynamic quantization, per channel, the usual advice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.texts import long_texts, short_texts

ROOT = Path(__file__).resolve().parents[3]
MODEL = Path(os.environ.get("BENCH_ENVS") or ROOT / ".bench-envs") / "model"

VERIFIED_SHORT, VERIFIED_LONG = 24, 8


def bundled_folder() -> Path:
    """Return the folder of the original files, for peers that read them as they are."""
    from tremplin.optimize.bundled import bundled_model

    return bundled_model()


def prepare() -> Path:
    """Write the int8 graph, the tokenizer and the fp32 vectors to compare with; returns their folder."""
    if (MODEL / "reference.npz").is_file():
        return MODEL
    from onnxruntime.quantization import QuantType, quantize_dynamic

    from tremplin.optimize.bundled import import_bundled
    from tremplin.optimize.importing.parity import GraphFiles, GraphUnderTest

    MODEL.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent) as name:
        folder = Path(name) / "model"
        imported = import_bundled(Path(name) / "fp32")
        folder.mkdir()
        quantize_dynamic(
            imported.onnx_path, folder / "model-int8.onnx", per_channel=True, weight_type=QuantType.QInt8
        )
        shutil.copy(imported.tokenizer_path, folder / "tokenizer.json")
        texts = short_texts(VERIFIED_SHORT)[1] + long_texts(VERIFIED_LONG)[1]
        vectors = GraphUnderTest(GraphFiles(imported.onnx_path, imported.tokenizer_path)).answer(texts)[
            "embedding"
        ]
        np.savez(folder / "reference.npz", texts=np.array(texts), vectors=vectors)
        shutil.rmtree(MODEL, ignore_errors=True)
        folder.rename(MODEL)
    return MODEL


def reference() -> tuple[list[str], NDArray[np.float32]]:
    """Return some texts and their fp32 vectors of unit length."""
    kept = np.load(MODEL / "reference.npz")
    return [str(text) for text in kept["texts"]], kept["vectors"]
