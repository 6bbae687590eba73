"""TensorRT: an engine for one kind of NVIDIA GPU, or the script that builds it on the machine that has one.

Not verified with a GPU (docs/limits.md). Checked wherever this runs: that the ONNX parser knows every operator,
that its conditions on quantization hold, and, for 16-bit floats, that the graph it is given still answers alike.

Precision lives in the graph (a strongly typed network): TensorRT 11 has no other way, 10 offers it. With ``half``
products and activations are float16; normalisations, softmax, pooling and what guards against division by 0 stay
float32.

Sources: NVIDIA, TensorRT developer guide and migration guide 10.x to 11.x; onnx-tensorrt, docs/operators.md.
"""

from __future__ import annotations

import importlib
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from tremplin.errors import BadInput, MissingExtra, PassFailed
from tremplin.machine import usable_cores
from tremplin.optimize.passes.graph import read_graph
from tremplin.optimize.targets.target import GRAPH_FILE, Run, Shape, Written
from tremplin.serve.engine import Outputs, TokenBatch
from tremplin.serve.engines.feeds import feeds_of
from tremplin.serve.engines.onnx_runtime import OnnxRuntimeEngine
from tremplin.serve.engines.providers import BEST_ROWS, BEST_TOKENS, LARGEST_ROWS, LARGEST_TOKENS

if TYPE_CHECKING:
    import onnx

ENGINE_FILE = "model.engine"
SCRIPT_FILE = "build.sh"

EXTRA = (
    "Building an engine needs TensorRT and an NVIDIA GPU of the kind that will run it: pip install tensorrt "
    "cuda-python, on a machine with a driver. Without one, --dry-run writes the script that builds it there."
)

# What the ONNX parser of TensorRT 10.1 takes (onnx-tensorrt, docs/operators.md, 2024-06); later ones take more.
OPERATORS = frozenset((
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "AveragePool",
    "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape",
    "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DeformConv", "DepthToSpace", "DequantizeLinear", "Div",
    "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather",
    "GatherElements", "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool",
    "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization", "GRU", "HardSigmoid", "HardSwish",
    "Hardmax", "Identity", "If", "ImageScaler", "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization",
    "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Loop", "LRN", "LSTM", "LpNormalization", "LpPool",
    "MatMul", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg",
    "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "Pad", "ParametricSoftplus", "Pow", "PRelu",
    "QuantizeLinear", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence",
    "RNN", "RoiAlign", "Round", "ScaledTanh", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign",
    "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK",
    "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor",
))  # fmt: skip

# Kept in float32 when the rest is halved: sums over many values, exponentials, and the guards against 0
# (1e-12 is 0 in float16). ORT's converter keeps Range, CumSum, Min and Max by itself.
KEPT_IN_FLOAT32 = (
    "LayerNormalization", "Softmax", "ReduceSum", "ReduceL2", "ReduceMax", "Log", "Range", "CumSum", "Min", "Max",
)  # fmt: skip

# Operators of quantized versions only.
WRITTEN_BY_PASSES = frozenset(("BitShift", "BitwiseAnd", "DynamicQuantizeLinear", "MatMulInteger"))

FLOAT32_SPEAKS = "Export the fp32 version that it was made from, with --half for 16-bit floats."


@dataclass(frozen=True)
class Profile:
    """The shapes an engine is built for; any batch from one token to the largest runs, the best is fastest."""

    best: Shape = field(default_factory=lambda: Shape(BEST_ROWS, BEST_TOKENS))
    largest: Shape = field(default_factory=lambda: Shape(LARGEST_ROWS, LARGEST_TOKENS))
    workspace_mib: int = 2048
    """Memory that the builder may try kernels with."""

    def __post_init__(self) -> None:
        """Refuse a best shape that the engine could not run."""
        if self.best.rows > self.largest.rows or self.best.tokens > self.largest.tokens:
            raise BadInput(f"The best shape, {self.best}, is larger than the largest, {self.largest}.")

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """By the name that trtexec gives each."""
        return {"min": Shape(1, 1), "opt": self.best, "max": self.largest}


class TensorRtTarget:
    """Builds an engine and runs it on this machine's GPU."""

    name = "tensorrt"

    def __init__(self, profile: Profile, *, half: bool) -> None:
        self._profile = profile
        self.is_half = half
        self.largest: Shape | None = profile.largest
        self._trt = _imported("tensorrt")
        self._cuda = _imported("cuda.bindings.runtime")

    @property
    def runtime(self) -> str:
        """TensorRT with its version."""
        return f"tensorrt {self._trt.__version__}"

    @property
    def tools(self) -> Mapping[str, str]:
        """TensorRT builds and runs."""
        return {"tensorrt": str(self._trt.__version__)}

    def check(self, graph: Path) -> None:
        """Raise PassFailed for what the ONNX parser does not take."""
        check_graph(read_graph(graph))

    def write(self, graph: Path, folder: Path) -> Written:
        """Build the engine; takes minutes."""
        model = read_graph(graph)
        plan = self._build(halved(model) if self.is_half else model)
        (folder / ENGINE_FILE).write_bytes(plan)
        notes = (f"The engine runs batches of up to {self._profile.largest}, on this kind of GPU only.",)
        return Written("float16" if self.is_half else "float32", notes, {"tf32": False})

    def open(self, folder: Path) -> Run:
        """Load the engine onto the GPU."""
        return _EngineOnGpu(self._trt, self._cuda, folder / ENGINE_FILE).run

    def _build(self, model: onnx.ModelProto) -> Any:
        trt = self._trt
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(model.SerializeToString()):
            said = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
            raise PassFailed(f"{self.runtime} does not take the graph: {said}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, self._profile.workspace_mib << 20)
        config.clear_flag(trt.BuilderFlag.TF32)  # products of 10 bits, with which no version was judged
        profile = builder.create_optimization_profile()
        shapes = [(shape.rows, shape.tokens) for shape in self._profile.shapes.values()]
        for index in range(network.num_inputs):
            profile.set_shape(network.get_input(index).name, *shapes)
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise PassFailed(f"{self.runtime} could not build an engine; a larger --workspace-mib may help.")
        return plan


class TensorRtScript:
    """Writes the graph and the script that builds the engine elsewhere; runs the graph in ONNX Runtime."""

    name = "tensorrt"

    def __init__(self, profile: Profile, *, half: bool) -> None:
        self._profile = profile
        self.is_half = half
        self.largest: Shape | None = profile.largest

    @property
    def runtime(self) -> str:
        """ONNX Runtime, on the graph that TensorRT will be given."""
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__} on the graph for TensorRT"

    @property
    def tools(self) -> Mapping[str, str]:
        """Nothing beside what every export uses."""
        return {}

    def check(self, graph: Path) -> None:
        """Raise PassFailed for what the ONNX parser does not take."""
        check_graph(read_graph(graph))

    def write(self, graph: Path, folder: Path) -> Written:
        """Write ``model.onnx`` and ``build.sh``."""
        model = read_graph(graph)
        notes = [
            f"The engine was not built. Run {SCRIPT_FILE} where TensorRT and the GPU are; parity of the engine "
            "itself is checked by the same export without --dry-run, there.",
            *check_graph(model),
        ]
        if self.is_half:
            (folder / GRAPH_FILE).write_bytes(halved(model).SerializeToString())
        else:
            shutil.copyfile(graph, folder / GRAPH_FILE)
        inputs = [entry.name for entry in model.graph.input]
        script = folder / SCRIPT_FILE
        script.write_text(build_script(inputs, self._profile))
        script.chmod(script.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        return Written("float16" if self.is_half else "float32", tuple(notes))

    def open(self, folder: Path) -> Run:
        """Open the graph that the script builds from."""
        engine = OnnxRuntimeEngine(folder / GRAPH_FILE, threads=usable_cores()[0])
        engine.load()
        return engine.run


def check_graph(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return what to know before building from a graph; raises PassFailed for what the parser does not take."""
    if unknown := sorted({node.op_type for node in model.graph.node} - OPERATORS):
        hint = f" {FLOAT32_SPEAKS}" if WRITTEN_BY_PASSES.issuperset(unknown) else ""
        raise PassFailed(f"TensorRT's ONNX parser has no {', '.join(unknown)}.{hint}")
    _check_quantization(model)
    notes = []
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset > 20:
        notes.append(f"The graph has opset {opset}: the parser of TensorRT 10.0 ends at 20, that of 11 at 25.")
    if any(node.op_type == "CumSum" for node in model.graph.node):
        notes.append(
            "Positions are counted with CumSum over int64; the parser's list of 10.1 names floats only for it."
        )
    return tuple(notes)


def _check_quantization(model: onnx.ModelProto) -> None:
    """Raise PassFailed unless every quantized tensor is int8 around 0: TensorRT computes with no other.

    It takes such values from a quantization only; a table of bytes that is looked up is refused as well.
    """
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    bytes_ = {
        name for name, tensor in constants.items() if tensor.data_type in (TensorProto.INT8, TensorProto.UINT8)
    }
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            if bytes_.intersection(node.input):
                raise PassFailed(
                    f"TensorRT has no {node.op_type} of bytes, as this version's tables are. {FLOAT32_SPEAKS}"
                )
            continue
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is not None and (zero.data_type != TensorProto.INT8 or numpy_helper.to_array(zero).any()):
            raise PassFailed(
                "TensorRT computes with int8 values around 0, and this version's activations are uint8 with a "
                f"zero point. {FLOAT32_SPEAKS}"
            )


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float32 graph with its products and activations in float16, inputs and outputs as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(model, keep_io_types=True, op_block_list=list(KEPT_IN_FLOAT32))
    nodes = _sorted_nodes(converted)  # it adds its casts at the end
    del converted.graph.node[:]
    converted.graph.node.extend(nodes)
    return converted


def _sorted_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the nodes so that each comes after what it reads, otherwise in the order they were in."""
    known = {"", *(entry.name for entry in (*model.graph.input, *model.graph.initializer))}
    waiting, found = list(model.graph.node), []
    while waiting:
        ready = [node for node in waiting if known.issuperset(node.input)]
        if not ready:
            raise PassFailed("The halved graph has a node that reads what no other gives; this is a bug.")
        known.update(name for node in ready for name in node.output)
        found += ready
        waiting = [node for node in waiting if not known.issuperset(node.output)]
    return found


def build_script(inputs: Sequence[str], profile: Profile) -> str:
    """Return the shell script that builds ``model.engine`` from ``model.onnx`` beside it."""
    shapes = [
        f"--{kind}Shapes={','.join(f'{name}:{shape}' for name in inputs)}"
        for kind, shape in profile.shapes.items()
    ]
    arguments = [
        f"--onnx={GRAPH_FILE}",
        *shapes,
        f"--memPoolSize=workspace:{profile.workspace_mib}",
        "--stronglyTyped",
        "--noTF32",
        "--skipInference",
        f"--saveEngine={ENGINE_FILE}",
    ]
    lines = " \\\n    ".join(["trtexec", *arguments])
    return (
        "#!/bin/sh\n"
        "# Builds an engine for the GPU of this machine; trtexec comes with TensorRT 10 or 11.\n"
        'set -eu\ncd "$(dirname "$0")"\n'
        f'{lines} "$@"\n'
    )


class _EngineOnGpu:
    """A loaded engine; inputs and outputs are copied for each batch."""

    def __init__(self, trt: ModuleType, cuda: ModuleType, path: Path) -> None:
        self._trt, self._cuda = trt, cuda
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))  # the engine does not outlive it
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise PassFailed("TensorRT cannot read the engine that it has just built.")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        self._inputs = [name for name in names if self._mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]
        self._stream = self._call("cudaStreamCreate")

    def run(self, batch: TokenBatch) -> Outputs:
        """Return every output for a batch."""
        held: list[Any] = []
        try:
            for name, array in feeds_of(batch, self._inputs).items():
                self._context.set_input_shape(name, array.shape)
                self._place(name, np.ascontiguousarray(array), held, to_device=True)
            results = {
                name: np.empty(tuple(self._context.get_tensor_shape(name)), np.float32) for name in self._outputs
            }
            places = {name: self._place(name, array, held) for name, array in results.items()}
            if not self._context.execute_async_v3(self._stream):
                raise PassFailed(f"TensorRT did not run a batch of {batch.rows} x {batch.width}.")
            self._call("cudaStreamSynchronize", self._stream)
            to_host = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
            for name, array in results.items():
                self._call("cudaMemcpy", array.ctypes.data, places[name], array.nbytes, to_host)
        finally:
            for place in held:
                self._call("cudaFree", place)
        return results

    def _place(self, name: str, array: Any, held: list[Any], *, to_device: bool = False) -> Any:
        """Give a tensor memory on the GPU, filled with the array when it is an input."""
        place = self._call("cudaMalloc", max(array.nbytes, 1))
        held.append(place)
        if to_device:
            kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._call("cudaMemcpy", place, array.ctypes.data, array.nbytes, kind)
        self._context.set_tensor_address(name, int(place))
        return place

    def _mode(self, name: str) -> Any:
        return self._engine.get_tensor_mode(name)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Call CUDA's runtime, which answers with a status first."""
        status, *values = getattr(self._cuda, function)(*arguments)
        if int(status) != 0:
            raise PassFailed(f"CUDA's {function} failed with status {int(status)}.")
        return values[0] if values else None


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: the package is there, the driver's libraries are not
        raise MissingExtra(EXTRA) from None
