"""What this machine lets the process use: cores, memory, CPU flags.

Inside a container the number of cores the kernel reports is the host's. What counts is the smaller of
the CPU affinity and the cgroup quota; engines that ignore it fight each other for time slices.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")

# Flags that decide which int8 and fp32 kernels an engine can pick; the rest of the list is noise.
KERNEL_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni",
    "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """The machine as evidence of speed names it."""

    cpu: str
    architecture: str
    cores: int
    """Cores this process may use: min(affinity, cgroup quota), at least 1."""
    cores_from: str
    """Where ``cores`` comes from: ``affinity`` or ``cgroup quota``."""
    memory_bytes: int
    flags: tuple[str, ...]
    system: str

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits that stay the same while speed can be compared."""
        facts = "|".join((self.cpu, self.architecture, str(self.cores), *self.flags))
        return hashlib.sha256(facts.encode()).hexdigest()[:12]


def read_machine(cgroup: Path = CGROUP) -> Machine:
    """Return the machine this process runs on."""
    cores, cores_from = usable_cores(cgroup)
    cpu, flags = _read_cpu_info()
    return Machine(
        cpu=cpu,
        architecture=platform.machine(),
        cores=cores,
        cores_from=cores_from,
        memory_bytes=_memory_bytes(cgroup),
        flags=flags,
        system=f"{platform.system()} {platform.release().split('-')[0]}",
    )


def usable_cores(cgroup: Path = CGROUP) -> tuple[int, str]:
    """Return the cores this process may use and where the number comes from.

    A quota of 1.5 cores counts as 1: a second engine thread would be throttled half the time.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(cgroup)
    if quota is not None and quota < affinity:
        return max(1, int(quota)), "cgroup quota"
    return affinity, "affinity"


def _cgroup_quota(cgroup: Path) -> float | None:
    """Cores granted by cgroup v2 (``cpu.max``) or v1 (``cpu.cfs_quota_us``); None when unlimited."""
    try:
        limit, period = (cgroup / "cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((cgroup / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((cgroup / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 and period_us > 0 else None


def _memory_bytes(cgroup: Path) -> int:
    """Physical memory, or the cgroup's limit when that is smaller."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            return min(physical, int((cgroup / name).read_text()))
        except (OSError, ValueError):
            continue
    return physical


def _read_cpu_info() -> tuple[str, tuple[str, ...]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), ()
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if value
    }
    present = set(fields.get("flags", fields.get("Features", "")).split())
    name = fields.get("model name", platform.machine())
    return name, tuple(flag for flag in KERNEL_FLAGS if flag in present)


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the kernel does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def return_free_memory() -> None:
    """Give memory that was freed back to the system, where the C library can; about 11 MB after start-up."""
    import ctypes

    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # not glibc: its allocator decides by itself
        return
