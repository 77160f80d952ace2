"""Which files are looked through for examples: kernels can be imported with Triton only."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["secateur/*/gpu_*.py"]
