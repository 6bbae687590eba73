"""ONNX Runtime on an NVIDIA GPU: its CUDA and TensorRT execution providers, with their options.

Not verified: the project is built where there is no GPU (docs/limits.md). Whatever cannot be had is refused when
the version is loaded; ONNX Runtime itself would fall back to the CPU without a word.

Source of the options: ONNX Runtime's documentation of its CUDA and TensorRT execution providers.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import onnxruntime as ort

from tremplin.errors import EngineFailed

# Name and options, as ``InferenceSession`` takes them.
Provider = tuple[str, dict[str, str]]

EXTRA = (
    "ONNX Runtime has no {provider} here: pip uninstall onnxruntime, then pip install onnxruntime-gpu, "
    "on a machine with an NVIDIA driver"
)
# TensorRT builds for a range of shapes, and best for one; batches outside of it would be built anew.
LARGEST_ROWS, LARGEST_TOKENS = 64, 512
BEST_ROWS, BEST_TOKENS = 16, 32


class Device(StrEnum):
    """What ONNX Runtime computes with."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


PROVIDERS = {
    Device.CPU: "CPUExecutionProvider",
    Device.CUDA: "CUDAExecutionProvider",
    Device.TENSORRT: "TensorrtExecutionProvider",
}


def is_available(device: Device) -> bool:
    """Return whether the installed ONNX Runtime was built with the device's provider."""
    return PROVIDERS[device] in ort.get_available_providers()


def providers_of(device: Device, inputs: Sequence[str], cache: Path) -> list[Provider]:
    """Return the providers for a device, the preferred first; each takes what the one before it cannot.

    ``inputs`` are the graph's inputs, all (rows, tokens); ``cache`` keeps engines that TensorRT has built, which
    takes minutes.
    """
    cpu: Provider = (PROVIDERS[Device.CPU], {})
    # Memory grows by what is asked for: doubling, the default, takes a GPU that others share.
    cuda: Provider = (PROVIDERS[Device.CUDA], {"device_id": "0", "arena_extend_strategy": "kSameAsRequested"})
    if device is Device.CPU:
        return [cpu]
    if device is Device.CUDA:
        return [cuda, cpu]
    tensorrt: Provider = (
        PROVIDERS[Device.TENSORRT],
        {
            "device_id": "0",
            "trt_fp16_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(cache),
            "trt_profile_min_shapes": _shapes(inputs, 1, 1),
            "trt_profile_opt_shapes": _shapes(inputs, BEST_ROWS, BEST_TOKENS),
            "trt_profile_max_shapes": _shapes(inputs, LARGEST_ROWS, LARGEST_TOKENS),
        },
    )
    return [tensorrt, cuda, cpu]


def check_provider(session: ort.InferenceSession, device: Device) -> None:
    """Raise EngineFailed when a session runs with less than it was asked for."""
    got = session.get_providers()[0]
    if got != PROVIDERS[device]:
        raise EngineFailed(
            f"ONNX Runtime opened the graph with {got}, not with {PROVIDERS[device]}: the driver, CUDA or "
            "TensorRT is missing or of another release. Install what onnxruntime-gpu needs, or serve with "
            "--engine onnxruntime."
        )


def _shapes(inputs: Sequence[str], rows: int, tokens: int) -> str:
    return ",".join(f"{name}:{rows}x{tokens}" for name in inputs)
