"""Small networks on their way out: saving, loading, ONNX."""

from secateur.deploy.loading import FileError, load
from secateur.deploy.onnx import export
from secateur.deploy.pretrained import from_pretrained
from secateur.deploy.saving import save

__all__ = ["FileError", "export", "from_pretrained", "load", "save"]
