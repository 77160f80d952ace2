"""What a network costs for real: parameters, FLOPs, bytes, latency, peak memory, energy.

A model and an example input flow in; figures flow out.
"""

from secateur.measurement.count import count_bytes, count_flops, count_params
from secateur.measurement.energy import measure_energy
from secateur.measurement.footprint import Footprint, measure, measure_together
from secateur.measurement.host import machine
from secateur.measurement.latency import Latency, measure_latency, time_calls, time_together
from secateur.measurement.memory import measure_peak_memory
from secateur.measurement.units import (
    UNAVAILABLE,
    format_bytes,
    format_count,
    format_flops,
    format_joules,
    format_measure,
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
    "format_measure",
    "format_quantity",
    "format_seconds",
    "machine",
    "measure",
    "measure_energy",
    "measure_latency",
    "measure_peak_memory",
    "measure_together",
    "time_calls",
    "time_together",
]
