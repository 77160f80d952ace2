"""Small networks on their way out: saving, loading, files for other runtimes."""

from secateur.deploy.exporting import export
from secateur.deploy.loading import FileError, load
from secateur.deploy.pretrained import from_pretrained
from secateur.deploy.saving import save
from secateur.deploy.timing import latencies, latency
from secateur.runtimes import run

__all__ = [
    "FileError",
    "export",
    "from_pretrained",
    "latencies",
    "latency",
    "load",
    "run",
    "save",
]
