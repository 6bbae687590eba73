"""What turns token vectors into one sentence vector: pooling, dense layers, normalisation, in order.

Source: the modules of sentence-transformers 6.2 (Pooling, Dense, Normalize, SpladePooling).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tremplin.errors import IncompleteSource, UnsupportedModel
from tremplin.optimize.importing.checkpoint import Checkpoint, Config, SentenceModule
from tremplin.optimize.importing.encoder_weights import Linear, read_linear
from tremplin.optimize.importing.weights import Weights

SPLADE_MODULE = "SpladePooling"

POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

# Booleans written until sentence-transformers 5.6, in the order their vectors are concatenated.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}

DENSE_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.activation.SiLU": "silu",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.linear.Identity": "identity",
}


@dataclass(frozen=True)
class Pooling:
    """Token vectors to one vector; several modes are concatenated."""

    modes: tuple[str, ...]


@dataclass(frozen=True)
class Dense:
    """A linear layer and its activation."""

    linear: Linear
    activation: str


@dataclass(frozen=True)
class Normalize:
    """Division by the Euclidean norm."""


EmbeddingStep = Pooling | Dense | Normalize


@dataclass(frozen=True)
class SpladePooling:
    """A language model's logits for each token to one weight for each entry of the vocabulary."""

    strategy: str = "max"
    """``max`` or ``sum``, over the tokens."""
    logarithms: int = 1
    """How often log(1 + x) is taken of the positive logits."""


SPLADE_LOGARITHMS = {"relu": 1, "log1p_relu": 2}

# For a bare encoder asked to embed: what sentence-transformers does with one, plus unit length.
MEAN_AND_NORMALIZE: tuple[EmbeddingStep, ...] = (Pooling(("mean",)), Normalize())


def read_embedding_steps(checkpoint: Checkpoint, hidden_size: int) -> tuple[EmbeddingStep, ...]:
    """Return the steps after the encoder; MEAN_AND_NORMALIZE when the source is a bare encoder.

    Raises UnsupportedModel for a module that cannot be built, IncompleteSource when widths do not follow
    from one step to the next or a Dense has no weights.
    """
    if not any(module.kind == "Pooling" for module in checkpoint.modules):
        return MEAN_AND_NORMALIZE
    steps: list[EmbeddingStep] = []
    width = hidden_size
    for module in checkpoint.modules:
        step = _read_step(module, width)
        if step is not None:
            steps.append(step)
            width = width_after(step, width)
    return tuple(steps)


def read_splade_pooling(checkpoint: Checkpoint) -> SpladePooling:
    """Return how logits are pooled: as the source declares, or as SPLADE v2 does when it declares nothing.

    Raises UnsupportedModel for a pooling that cannot be built, or for other modules.
    """
    modules = [module for module in checkpoint.modules if module.kind != "Dropout"]
    if not modules:
        return SpladePooling()
    if [module.kind for module in modules] != [SPLADE_MODULE]:
        found = ", ".join(module.kind for module in modules)
        raise UnsupportedModel(f"{checkpoint.root} has the modules {found}; expected {SPLADE_MODULE} alone.")
    config = modules[0].config
    strategy = config.text("pooling_strategy", default="max")
    activation = config.text("activation_function", default="relu")
    if strategy not in ("max", "sum") or activation not in SPLADE_LOGARITHMS:
        raise UnsupportedModel(f"{config.path}: pooling {strategy!r} of {activation!r} cannot be built.")
    return SpladePooling(strategy, SPLADE_LOGARITHMS[activation])


def width_after(step: EmbeddingStep, width: int) -> int:
    """Return the width of the vector that leaves ``step`` when ``width`` enters."""
    match step:
        case Pooling(modes):
            return width * len(modes)
        case Dense(linear):
            return int(linear.weight.shape[0])
        case Normalize():
            return width


def _read_step(module: SentenceModule, width: int) -> EmbeddingStep | None:
    _refuse_rerouting(module)
    match module.kind:
        case "Pooling":
            return Pooling(_pooling_modes(module.config, width))
        case "Dense":
            return _read_dense(module, width)
        case "Normalize":
            return Normalize()
        case "Dropout":
            return None  # does nothing outside training
        case kind:
            raise UnsupportedModel(
                f"{module.folder} is a {kind} module; only Pooling, Dense, Normalize, Dropout can be built."
            )


def _refuse_rerouting(module: SentenceModule) -> None:
    """Modules may read or write something else than the sentence vector (multi-vector models)."""
    for key in ("module_input_name", "module_output_name"):
        if module.config.text(key, default="sentence_embedding") != "sentence_embedding":
            raise UnsupportedModel(f"{module.config.path}: {key} is not 'sentence_embedding'; it cannot be built.")


def _pooling_modes(config: Config, width: int) -> tuple[str, ...]:
    declared = config.integer("embedding_dimension", "word_embedding_dimension", default=width)
    if declared != width:
        raise IncompleteSource(
            f"{config.path} pools vectors of {declared} dimensions, but the encoder gives {width}."
        )
    chosen = config.get("pooling_mode")
    if chosen is None:
        flagged = tuple(mode for flag, mode in POOLING_FLAGS.items() if config.flag(flag))
        return flagged or ("mean",)
    modes = tuple(str(mode) for mode in chosen) if isinstance(chosen, list | tuple) else (str(chosen),)
    unknown = [mode for mode in modes if mode not in POOLING_MODES]
    if unknown or not modes:
        raise UnsupportedModel(f"{config.path}: pooling mode {unknown} is not one of {', '.join(POOLING_MODES)}.")
    return modes


def _read_dense(module: SentenceModule, width: int) -> Dense:
    config = module.config
    inputs, outputs = config.integer("in_features"), config.integer("out_features")
    if inputs != width:
        raise IncompleteSource(f"{config.path} reads {inputs} dimensions, but the step before it gives {width}.")
    if config.flag("use_residual"):
        raise UnsupportedModel(f"{config.path}: use_residual is true; it cannot be built.")
    name = config.text("activation_function", default="torch.nn.modules.activation.Tanh")
    if name not in DENSE_ACTIVATIONS:
        raise UnsupportedModel(f"{config.path}: activation {name!r}; known: {', '.join(DENSE_ACTIVATIONS)}.")
    weights = _module_weights(module.folder)
    if config.values.get("bias", True):
        linear = read_linear(weights, "linear", outputs, inputs)
    else:
        linear = Linear(weights.read("linear.weight", (outputs, inputs)), None)
    return Dense(linear, DENSE_ACTIVATIONS[name])


def _module_weights(folder: Path) -> Weights:
    if not folder.is_dir():
        raise IncompleteSource(f"{folder}, listed in modules.json, is missing.")
    return Weights(folder)
