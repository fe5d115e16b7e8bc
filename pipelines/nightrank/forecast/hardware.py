"""Known GPUs, for plans on machines without one.

Times for a GPU that this machine lacks are peak x efficiency. Peaks are the makers' for dense
bfloat16. Efficiencies go by width (`models.networks`): narrow networks leave a GPU
waiting for its memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from nightrank.errors import NightrankError

GIB = 1 << 30
# Exact search is a product and a selection of the best of every query: 6.3 to 8.5 ps a pair of 384
# dimensions with torch on an H100 (benchmarks/README.md). FAISS's own has not been measured.
SEARCH_EFFICIENCY = 0.1


@dataclass(frozen=True)
class Device:
    """A GPU: dense TFLOP/s in bfloat16 and float32, and its memory in bytes."""

    name: str
    bf16: float
    fp32: float
    memory: int

    def flops(self, precision: str) -> float:
        """Peak operations a second."""
        return (self.bf16 if precision == "bf16" else self.fp32) * 1e12


DEVICES = {
    device.name: device
    for device in (
        Device("A10G", 70, 31.5, 24 * GIB),
        Device("L4", 121, 30.3, 24 * GIB),
        Device("L40S", 362, 91.6, 48 * GIB),
        Device("A100", 312, 19.5, 80 * GIB),
        Device("H100", 989, 67, 80 * GIB),
        Device("H200", 989, 67, 141 * GIB),
    )
}


def device_named(name: str) -> Device:
    """A known GPU.

    Raises:
        NightrankError: E_USAGE for another name.
    """
    if name.upper() not in DEVICES:
        do = f"choose one of {', '.join(DEVICES)}"
        raise NightrankError("E_USAGE", f"--device {name}: not in the table", "", do)
    return DEVICES[name.upper()]
