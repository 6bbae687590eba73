"""Which engines there are, which are installed here, and how one is made."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from tremplin.registry.manifest import MODEL_FILE, Manifest
from tremplin.registry.store import Registry
from tremplin.serve.engine import Engine


class EngineName(StrEnum):
    """An engine by the name it is asked for."""

    ONNX_RUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    CTRANSLATE2 = "ctranslate2"
    CUDA = "cuda"
    """ONNX Runtime on a GPU."""
    TENSORRT = "tensorrt"
    """ONNX Runtime on a GPU, through TensorRT."""

    @property
    def package(self) -> str:
        """The package that it is."""
        return "onnxruntime" if self in ON_A_GPU else self.value


ON_A_GPU = frozenset({EngineName.CUDA, EngineName.TENSORRT})


@dataclass(frozen=True)
class EngineSpec:
    """All that making an engine takes; plain values, so that it can be told to another process."""

    name: EngineName
    model: str
    """Path of the version's graph."""
    threads: int = 1
    """Threads that compute one batch."""
    streams: int = 1
    """Batches computed at the same time."""
    narrow_weights: bool = False
    """No product of the weights overflows on any CPU (``Manifest.narrow_weights``)."""
    prepared: str = ""
    """Folder of what the engine reads instead of the graph, or builds from it: CTranslate2, TensorRT."""

    def make(self) -> Engine:
        """Return the engine, not loaded yet; raises MissingExtra when its package is not installed."""
        return MAKERS[self.name](self)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> EngineSpec:
        """Return the spec that ``dataclasses.asdict`` made these values of."""
        return cls(**dict(values) | {"name": EngineName(values["name"])})

    def with_streams(self, streams: int) -> EngineSpec:
        """Return the same engine for another number of batches at a time."""
        return replace(self, streams=streams)


def installed() -> list[EngineName]:
    """Return the engines that can be had here: their packages are installed, and built for what they need."""
    from tremplin.serve.engines.providers import Device, is_available

    return [
        name
        for name in EngineName
        if importlib.util.find_spec(name.package) is not None
        and (name not in ON_A_GPU or is_available(Device(name.value)))
    ]


def engine_of(registry: Registry, manifest: Manifest, *, threads: int) -> EngineSpec:
    """Return what runs a version everywhere: ONNX Runtime over its own graph, whose digest is checked."""
    graph = str(registry.path(manifest, MODEL_FILE))
    return EngineSpec(EngineName.ONNX_RUNTIME, graph, threads, narrow_weights=manifest.narrow_weights)


def _onnx_runtime(spec: EngineSpec) -> Engine:
    from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
    from tremplin.serve.engines.providers import Device

    return OnnxRuntimeEngine(
        Path(spec.model),
        threads=spec.threads,
        streams=spec.streams,
        narrow_weights=spec.narrow_weights,
        device=Device(spec.name.value) if spec.name in ON_A_GPU else Device.CPU,
        cache=Path(spec.prepared) if spec.prepared else None,
    )


def _openvino(spec: EngineSpec) -> Engine:
    from tremplin.serve.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(Path(spec.model), threads=spec.threads, streams=spec.streams)


def _ctranslate2(spec: EngineSpec) -> Engine:
    from tremplin.serve.engines.ctranslate2 import Ctranslate2Engine

    return Ctranslate2Engine(Path(spec.prepared), threads=spec.threads, streams=spec.streams)


MAKERS: Mapping[EngineName, Callable[[EngineSpec], Engine]] = {
    EngineName.ONNX_RUNTIME: _onnx_runtime,
    EngineName.CUDA: _onnx_runtime,
    EngineName.TENSORRT: _onnx_runtime,
    EngineName.OPENVINO: _openvino,
    EngineName.CTRANSLATE2: _ctranslate2,
}
