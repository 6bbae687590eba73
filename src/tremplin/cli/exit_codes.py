"""How a command ends: codes that scripts can trust."""

from __future__ import annotations

from tremplin.errors import (
    BadInput,
    ImportRefused,
    InvalidSettings,
    MissingExtra,
    NotServable,
    OptimizeFailed,
    PublishFailed,
    StartFailed,
    TrainingRefused,
    TremplinError,
    UnknownVersion,
)

# 2 is the command line's own (a wrong option), 1 any other error of ours, 70 a bug.
EXIT_CODES: tuple[tuple[type[TremplinError], int], ...] = (
    (BadInput, 3),
    (InvalidSettings, 3),
    (UnknownVersion, 3),
    (ImportRefused, 4),
    (NotServable, 5),
    (PublishFailed, 6),
    (StartFailed, 7),
    (MissingExtra, 8),
    (TrainingRefused, 9),
    (OptimizeFailed, 10),
)


def exit_code(error: TremplinError) -> int:
    """Return the exit code of an error: that of its nearest ancestor in the table, else 1."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
