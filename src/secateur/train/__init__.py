"""The loop behind `secateur train`: it can stop after any step and go on as if it had not."""

from secateur.train.checkpoint import CheckpointError
from secateur.train.data import Data
from secateur.train.distill import Distill
from secateur.train.finishing import finish
from secateur.train.loggers import JsonLines, Logger, TensorBoard
from secateur.train.loop import Interrupted, Loop
from secateur.train.recalibration import recalibrate

__all__ = [
    "CheckpointError",
    "Data",
    "Distill",
    "Interrupted",
    "JsonLines",
    "Logger",
    "Loop",
    "TensorBoard",
    "finish",
    "recalibrate",
]
