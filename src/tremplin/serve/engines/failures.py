"""What runtimes raise, as errors of ours.

Runtimes raise bare RuntimeErrors and classes of their own; what went wrong is only in the text, which may hold
codes, a stack and paths of the server's disk.
"""

from __future__ import annotations

from pathlib import Path

from tremplin.errors import EngineFailed, EngineNotRunning, EngineOutOfMemory

# Read in the messages of ONNX Runtime 1.31, OpenVINO 2026.4, CTranslate2 4.8 and oneDNN, under a memory limit.
OUT_OF_MEMORY = (
    "bad_alloc", "bad allocation", "failed to allocate", "failed to create memory", "could not create a memory",
    "out of memory", "cannot allocate memory", "not enough memory",
)  # fmt: skip
LONGEST = 300


def cannot_open(runtime: str, error: Exception, hidden: Path) -> EngineFailed:
    """Return the error of a file that a runtime cannot read; ``hidden`` must not reach a caller."""
    if is_out_of_memory(error):
        return EngineOutOfMemory(
            f"{runtime} has not enough memory to open the version. Free memory, or serve a smaller version."
        )
    said = what_it_said(error).replace(str(hidden), "the file").rstrip(".")
    return EngineFailed(
        f"{runtime} cannot open the graph: {said}. "
        "The file is damaged or not one this engine reads; publish the version again."
    )


def cannot_run(runtime: str, error: Exception, rows: int, width: int) -> EngineFailed:
    """Return the error of a batch of ``rows`` rows padded to ``width`` tokens that a runtime could not run."""
    if is_out_of_memory(error):
        return out_of_memory(runtime, rows, width)
    return EngineFailed(f"{runtime} could not run a batch: {what_it_said(error)}")


def out_of_memory(runtime: str, rows: int, width: int) -> EngineOutOfMemory:
    """Return the error of a batch that needed more memory than there is."""
    return EngineOutOfMemory(
        f"{runtime} ran out of memory on a batch of {rows} x {width} tokens; a smaller batch may fit."
    )


def not_loaded() -> EngineNotRunning:
    """Return the error of an engine that was asked to run too early or too late."""
    return EngineNotRunning("The engine was asked to run before it was loaded, or after it was closed.")


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a runtime failed for want of memory."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in said for sign in OUT_OF_MEMORY)


def what_it_said(error: Exception) -> str:
    """Return the reason a runtime gave, without its codes, the places of its source and the stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # OpenVINO begins with the places of its source it went through and ends with the reason.
    text = lines[-1] if lines[0].startswith(("Exception from ", "Check '")) else lines[0]
    return text.split(" : ", 3)[-1][:LONGEST].rstrip(".")
