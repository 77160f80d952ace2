"""What of a run depends on the model alone, so that it is the same on all inputs."""

from secateur.tracing.certainty.run import uncertain

__all__ = ["uncertain"]
