"""Build the one compiled library, if there is a C compiler; all else is in pyproject.toml."""

import os

from setuptools import Extension, setup

# Without the last two, a compiler takes care of traps and errno, and can't use vectors.
UNIX = ["-std=c99", "-O3", "-ffp-contract=off", "-fopenmp-simd"]
UNIX += ["-fno-trapping-math", "-fno-math-errno"]

fused = Extension(
    "secateur.kernels._fused",
    ["src/secateur/kernels/_fused.c", "src/secateur/kernels/_parts.c"],
    depends=["src/secateur/kernels/_compiled.h"],
    extra_compile_args=["/O2"] if os.name == "nt" else UNIX,
    optional=True,  # without a compiler, the plain code runs
)
setup(ext_modules=[fused])
