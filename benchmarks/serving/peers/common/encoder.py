"""all-MiniLM-L6-v2 in ONNX Runtime int8, as someone who follows the documentation would write it.

Used by the servers that bring no model of their own; the folder is on their ``PYTHONPATH``. One engine thread:
ONNX Runtime's default pool takes the cores of the whole machine and leaves the affinity it was given.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

MAX_TOKENS = 256


class Encoder:
    def __init__(self) -> None:
        folder = Path(os.environ["PEER_MODEL"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # The file asks for padding and truncation to 128, whatever the text; sentence-transformers ignores both.
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("PEER_THREADS", "1"))
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(
            str(folder / "model-int8.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def encode(self, texts: list[str]) -> np.ndarray:
        """Return one unit vector per text, (texts, 384)."""
        encoded = self._tokenizer.encode_batch(texts)
        feeds = {
            "input_ids": np.array([text.ids for text in encoded], np.int64),
            "attention_mask": np.array([text.attention_mask for text in encoded], np.int64),
        }
        return self._session.run(["embedding"], feeds)[0]
