"""Small networks on their way out: saving, loading, ONNX."""

from secateur.deploy.onnx import export
from secateur.deploy.pretrained import from_pretrained
from secateur.deploy.saving import FileError, load, save

__all__ = ["FileError", "export", "from_pretrained", "load", "save"]
