"""What a network costs for real: parameters, FLOPs, bytes, latency, peak memory, energy.

A model and an example input flow in; figures flow out.
"""

from secateur.measure.count import count_bytes, count_flops, count_params
from secateur.measure.energy import measure_energy
from secateur.measure.footprint import Footprint, measure
from secateur.measure.latency import Latency, measure_latency, time_calls
from secateur.measure.memory import measure_peak_memory
from secateur.measure.units import (
    UNAVAILABLE,
    format_bytes,
    format_count,
    format_flops,
    format_joules,
    format_quantity,
    format_seconds,
)

__all__ = [
    "UNAVAILABLE",
    "Footprint",
    "Latency",
    "count_bytes",
    "count_flops",
    "count_params",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_joules",
    "format_quantity",
    "format_seconds",
    "measure",
    "measure_energy",
    "measure_latency",
    "measure_peak_memory",
    "time_calls",
]
