"""Ways to train: a resumable loop of our own, and the demo that shows it.

For other trainers import `secateur.integrations.lightning` or `.transformers`; each needs its
package.
"""

from secateur.integrations.checkpoint import CheckpointError
from secateur.integrations.data import Data
from secateur.integrations.distill import Distill
from secateur.integrations.finish import finish
from secateur.integrations.loggers import JsonLines, Logger, TensorBoard
from secateur.integrations.loop import Interrupted, Loop

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
]
