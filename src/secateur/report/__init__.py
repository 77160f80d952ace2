"""What a run came to, for people: terminal tables, drawings, the one-file HTML report."""

from secateur.measurement.host import machine
from secateur.report.page import html
from secateur.report.run import Check, Network, Point, Run, Width, widths
from secateur.report.tables import asked_table, comparison_table, frontier_table
from secateur.report.width_bars import widths_svg

__all__ = [
    "Check",
    "Network",
    "Point",
    "Run",
    "Width",
    "asked_table",
    "comparison_table",
    "frontier_table",
    "html",
    "machine",
    "widths",
    "widths_svg",
]
