"""Exit codes that scripts can trust."""

from __future__ import annotations

import pytest

from tremplin import errors
from tremplin.cli.main import EXIT_CODES, exit_code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.TremplinError, 1),
        (errors.EngineFailed, 1),
        (errors.DamagedArtefact, 1),
        (errors.BadInput, 3),
        (errors.UnknownName, 3),
        (errors.InvalidSettings, 3),
        (errors.UnknownVersion, 3),
        (errors.ParityFailed, 4),
        (errors.TokenizerMismatch, 4),
        (errors.NotServable, 5),
        (errors.PublishFailed, 6),
        (errors.StartFailed, 7),
        (errors.MissingExtra, 8),
        (errors.TrainingRefused, 9),
        (errors.PassFailed, 10),
    ],
)
def test_an_error_has_the_code_of_its_nearest_ancestor(error: type[errors.TremplinError], code: int) -> None:
    assert exit_code(error("Wrong.")) == code


def test_codes_do_not_collide_with_the_shells() -> None:
    codes = {code for _, code in EXIT_CODES}
    assert codes.isdisjoint({0, 1, 2, 70, 126, 127, 130})
