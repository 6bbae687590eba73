"""GPU providers of ONNX Runtime: what can be tested without a GPU."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest

from tests import tiny_models
from tremplin.errors import EngineFailed, MissingExtra
from tremplin.serve.engines.catalogue import EngineName, EngineSpec, installed
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine, open_session
from tremplin.serve.engines.providers import PROVIDERS, Device, check_provider, is_available, providers_of

needs_no_gpu = pytest.mark.skipif(is_available(Device.CUDA), reason="this ONNX Runtime is built for GPUs")


def test_each_device_falls_back_to_the_next_and_at_last_to_the_cpu() -> None:
    names = {device: [name for name, _ in providers_of(device, ["input_ids"], Path("c"))] for device in Device}
    assert names[Device.CPU] == ["CPUExecutionProvider"]
    assert names[Device.CUDA] == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert names[Device.TENSORRT] == ["TensorrtExecutionProvider", *names[Device.CUDA]]
    assert all(chosen[0] == PROVIDERS[device] for device, chosen in names.items())
    assert set(PROVIDERS.values()) <= set(ort.get_all_providers()), "a name that ONNX Runtime does not know"


def test_tensorrt_is_told_the_shapes_of_every_input() -> None:
    ((_, options), *_) = providers_of(Device.TENSORRT, ["input_ids", "attention_mask"], Path("cache"))
    assert options["trt_profile_min_shapes"] == "input_ids:1x1,attention_mask:1x1"
    assert options["trt_profile_max_shapes"] == "input_ids:64x512,attention_mask:64x512"
    assert options["trt_engine_cache_path"] == "cache"
    assert all(isinstance(value, str) for value in options.values())


@needs_no_gpu
@pytest.mark.parametrize("name", [EngineName.CUDA, EngineName.TENSORRT])
def test_without_the_provider_it_says_what_to_install(tmp_path: Path, name: EngineName) -> None:
    path = tiny_models.write_encoder(tmp_path / "model.onnx")
    assert name not in installed()
    with pytest.raises(MissingExtra, match="pip install onnxruntime-gpu"):
        EngineSpec(name, str(path)).make()


def test_a_session_that_fell_back_to_the_cpu_is_refused(tmp_path: Path) -> None:
    """What ONNX Runtime does without a word where the driver is missing."""
    session = open_session(tiny_models.write_encoder(tmp_path / "model.onnx"), 1, is_precise=False)
    check_provider(session, Device.CPU)
    with pytest.raises(EngineFailed, match="with CPUExecutionProvider, not with CUDAExecutionProvider"):
        check_provider(session, Device.CUDA)


def test_the_name_says_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_models.write_encoder(tmp_path / "model.onnx")
    assert OnnxRuntimeEngine(path, threads=1).name == f"onnxruntime {ort.__version__}"
    monkeypatch.setattr("tremplin.serve.engines.onnx_runtime.is_available", lambda device: True)
    cuda = OnnxRuntimeEngine(path, threads=1, device=Device.CUDA)
    assert cuda.name == f"onnxruntime-cuda {ort.__version__}"
    if not is_available(Device.CUDA):
        with pytest.raises(EngineFailed):
            cuda.load()
