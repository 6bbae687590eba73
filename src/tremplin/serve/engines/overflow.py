"""Whether int8 products overflow on a CPU.

x86 multiplies uint8 activations by int8 weights two by two. Without VNNI the instruction (``vpmaddubsw``) adds
each pair in 16 bits and cuts what does not fit, silently: 255 * 127 * 2 is twice what 16 bits hold. An engine
there needs slower kernels, or weights that are *narrow* (``optimize/passes/graph.py``, docs/decisions/0011).
"""

from __future__ import annotations

from tremplin.machine import Machine

X86 = ("x86_64", "amd64", "i686", "i386")
# With any of these the four products of a group are added in 32 bits.
WIDE_SUMS = ("avx512_vnni", "avx_vnni", "amx_int8")


def products_overflow(machine: Machine) -> bool:
    """Return whether sums of int8 products can overflow; true for an x86 whose flags are not known."""
    return machine.architecture.lower() in X86 and not set(WIDE_SUMS) & set(machine.flags)
