"""Figures are written with three significant digits and the unit that fits."""

import pytest

from secateur.measurement import (
    format_bytes,
    format_count,
    format_flops,
    format_joules,
    format_quantity,
    format_seconds,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (format_flops(1_234_567), "1.23 MFLOPs"),
        (format_flops(0), "0 FLOPs"),
        (format_flops(999), "999 FLOPs"),
        (format_flops(999_499), "999 kFLOPs"),
        (format_flops(999_600), "1 MFLOPs"),
        (format_flops(10**21), "1000000 PFLOPs"),
        (format_count(11_173_962), "11.2 M"),
        (format_count(570), "570"),
        (format_bytes(4_718_592), "4.5 MiB"),
        (format_bytes(1023), "1023 B"),
        (format_bytes(1024), "1 KiB"),
        (format_bytes(1024 * 1024 - 1), "1 MiB"),
        (format_seconds(0.0032), "3.2 ms"),
        (format_seconds(0.0009999), "1 ms"),
        (format_seconds(0.9996), "1 s"),
        (format_seconds(0.0), "0 s"),
        (format_seconds(125.4), "125 s"),
        (format_seconds(2.5e-7), "250 ns"),
        (format_seconds(1.5e-5), "15 µs"),
        (format_joules(0.0125), "12.5 mJ"),
        (format_joules(None), "unavailable"),
        (format_bytes(None), "unavailable"),
        (format_quantity(-1500), "-1.5 k"),
    ],
)
def test_text(text, expected):
    assert text == expected


def test_another_base_is_refused():
    with pytest.raises(ValueError, match="expected 1000 or 1024"):
        format_quantity(1, base=10)
