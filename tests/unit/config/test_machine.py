"""What the machine lets a process use, as containers see it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tremplin.machine import read_machine, resident_bytes, usable_cores

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (AFFINITY, "affinity")),
        ({"cpu.max": "max 100000"}, (AFFINITY, "affinity")),
        ({"cpu.max": "50000 100000"}, (1, "cgroup quota")),
        ({"cpu.max": "150000 100000"}, (1, "cgroup quota") if AFFINITY > 1 else (1, "affinity")),
        ({"cpu.max": "99900000 100000"}, (AFFINITY, "affinity")),
        ({"cpu.max": "nonsense"}, (AFFINITY, "affinity")),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, (1, "cgroup quota")),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, (AFFINITY, "affinity")),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "0"}, (AFFINITY, "affinity")),
    ],
)
def test_cores_are_the_smaller_of_affinity_and_quota(
    tmp_path: Path, files: dict[str, str], expected: tuple[int, str]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == expected


def test_memory_is_the_smaller_of_physical_and_limit(tmp_path: Path) -> None:
    physical = read_machine(tmp_path).memory_bytes
    assert physical > 2**28
    (tmp_path / "memory.max").write_text("123456789\n")
    assert read_machine(tmp_path).memory_bytes == 123456789
    (tmp_path / "memory.max").write_text("max\n")
    assert read_machine(tmp_path).memory_bytes == physical


def test_the_id_stays_while_speed_can_be_compared(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine.id == read_machine(tmp_path).id
    assert len(machine.id) == 12
    assert replace(machine, memory_bytes=1, system="Linux 1.0").id == machine.id
    assert replace(machine, cores=machine.cores + 1).id != machine.id
    assert replace(machine, flags=()).id != machine.id or not machine.flags


def test_resident_memory_is_told() -> None:
    assert resident_bytes() > 10_000_000
