"""A run's facts, for the tests of tables and report."""

from secateur.budget.budget import Line
from secateur.measurement import Footprint
from secateur.report import Check, Network, Run, Width

DENSE = Footprint(params=1000, flops=9000, bytes=4000, latency=4e-3, peak_memory=8000)
SMALL = Footprint(params=300, flops=2250, bytes=1200, latency=1e-3, peak_memory=3000)


def make_run(**changes) -> Run:
    steps = [
        {
            "step": step,
            "loss": 2.0 / step,
            "lr": 0.1,
            "kept": 12 - step,
            "hardness": min(1.0, step / 7),
            "spent": {"flops": 1 - step / 20},
        }
        for step in range(1, 11)
    ]
    epochs = [
        {"step": 5, "epoch": 1, "held_out_loss": 0.7, "accuracy": 0.6},
        {"step": 10, "epoch": 2, "held_out_loss": 0.4, "accuracy": 0.9},
    ]
    facts = {
        "title": "A <tiny> network",
        "asked": (Line("flops", asked=2300, reached=2250, full=9000),),
        "widths": (Width("conv<1>", 2, 8), Width("conv2", 4, 4)),
        "networks": (
            Network("dense", DENSE, 2e-3, 0.95),
            Network("small", SMALL, 1e-3, 0.9),
        ),
        "history": (*steps, *epochs),
        "checks": (Check("same outputs", True, "bit for bit"),),
        "settings": {"optimizer": "sgd & friends"},
        "machine": {"processor": "abacus"},
        "files": {"small.safetensors": "the network"},
    }
    return Run(**{**facts, **changes})
