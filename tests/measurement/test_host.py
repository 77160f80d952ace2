"""Two machines are alike where their hardware is."""

from secateur.measurement import machine
from secateur.measurement.host import machine_differences


def test_versions_and_threads_make_no_other_machine():
    here = machine()
    assert machine_differences(here, {**here, "torch": "1.0", "threads": "64 of torch"}) == []


def test_hardware_does_and_is_named():
    here = {**machine(), "processor": "X, 2 cores"}
    other = {**here, "processor": "Y, 8 cores", "accelerator": "Z"}
    assert machine_differences(here, other) == [
        "processor: X, 2 cores / Y, 8 cores",
        "accelerator: none / Z",
    ]
