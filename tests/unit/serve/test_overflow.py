from __future__ import annotations

from dataclasses import replace

import pytest

from tremplin.bootstrap import first_run_schemes
from tremplin.machine import read_machine
from tremplin.serve.engines.overflow import products_overflow

MACHINE = read_machine()


@pytest.mark.parametrize(
    ("architecture", "flags", "overflows"),
    [
        ("x86_64", ("sse4_2", "avx", "avx2", "fma"), True),
        ("x86_64", ("avx2", "avx512f", "avx512bw"), True),
        ("x86_64", (), True),  # macOS and containers without /proc: not known is not safe
        ("AMD64", ("avx2",), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("x86_64", ("avx512f", "avx512_vnni"), False),
        ("aarch64", ("asimd",), False),
        ("arm64", (), False),
    ],
)
def test_products_overflow_on_x86_without_vnni(architecture: str, flags: tuple[str, ...], overflows: bool) -> None:
    machine = replace(MACHINE, architecture=architecture, flags=flags)
    assert products_overflow(machine) is overflows
    assert first_run_schemes(machine) == (("narrow",) if overflows else ("mixed",))
