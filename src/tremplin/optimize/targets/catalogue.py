"""The targets by name, each made with the options that it knows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

from tremplin.errors import BadInput
from tremplin.optimize.targets.target import Shape, Target
from tremplin.registry.manifest import Interface


class TargetName(StrEnum):
    """What a version can be exported for."""

    OPENVINO = "openvino"
    LITERT = "litert"
    TENSORRT = "tensorrt"
    TVM = "tvm"


@dataclass(frozen=True)
class TargetOptions:
    """What the command line says of a target; the defaults suit all of them."""

    half: bool = False
    best_shape: str | None = None
    largest_shape: str | None = None
    workspace_mib: int | None = None
    dry_run: bool = False

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for."""
        return self == TargetOptions()

    @property
    def arguments(self) -> list[str]:
        """The options as a command line has them, what was not asked for left out."""
        words = []
        for name, value in asdict(self).items():
            flag = f"--{name.replace('_', '-')}"
            if value is True:
                words.append(flag)
            elif value not in (None, False):
                words += [flag, str(value)]
        return words


def target_of(name: str, options: TargetOptions, interface: Interface) -> Target:
    """Return the target of a name for a version's interface.

    Raises BadInput for an unknown name, an option that the target does not have or a shape that is none, and
    MissingExtra when the target's tools are not installed.
    """
    if name not in list(TargetName):
        raise BadInput(f"There is no target {name!r}; choose among {', '.join(TargetName)}.")
    if name != TargetName.TENSORRT and not options.is_default:
        raise BadInput(
            "--half, --best-shape, --largest-shape, --workspace-mib and --dry-run are for tensorrt; "
            f"{name} takes the version as it is, in any shape."
        )
    match TargetName(name):
        case TargetName.OPENVINO:
            from tremplin.optimize.targets.openvino import OpenVinoTarget

            return OpenVinoTarget()
        case TargetName.LITERT:
            from tremplin.optimize.targets.litert import LiteRtTarget

            return LiteRtTarget()
        case TargetName.TVM:
            from tremplin.optimize.targets.tvm import TvmTarget

            return TvmTarget()
        case TargetName.TENSORRT:
            return _tensorrt(options, interface)


def _tensorrt(options: TargetOptions, interface: Interface) -> Target:
    from tremplin.optimize.targets.tensorrt import Profile, TensorRtScript, TensorRtTarget

    usual = Profile()
    largest = read_shape(options.largest_shape) or usual.largest
    largest = Shape(largest.rows, min(largest.tokens, interface.max_tokens))
    best = read_shape(options.best_shape) or Shape(
        min(usual.best.rows, largest.rows), min(usual.best.tokens, largest.tokens)
    )
    profile = Profile(best, largest, options.workspace_mib or usual.workspace_mib)
    if options.dry_run:
        return TensorRtScript(profile, half=options.half)
    return TensorRtTarget(profile, half=options.half)


def read_shape(text: str | None) -> Shape | None:
    """Return a shape written as ``ROWSxTOKENS``, None when there is none; raises BadInput."""
    if text is None:
        return None
    rows, _, tokens = text.partition("x")
    if not (rows.isdecimal() and tokens.isdecimal() and int(rows) and int(tokens)):
        raise BadInput(f"{text!r} is not a shape; write rows and tokens, such as 16x32.")
    return Shape(int(rows), int(tokens))
