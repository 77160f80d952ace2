"""Build the one compiled library, if there is a C compiler; all else is in pyproject.toml."""

import os

from setuptools import Extension, setup

# Without the last two, a compiler takes care of traps and errno, and can't use vectors.
UNIX = ["-std=c99", "-O3", "-ffp-contract=off", "-fopenmp-simd"]
UNIX += ["-fno-trapping-math", "-fno-math-errno"]

fused = Extension(
    "secateur.envelope._fused",
    ["src/secateur/envelope/_fused.c", "src/secateur/envelope/_parts.c"],
    depends=["src/secateur/envelope/_compiled.h"],
    extra_compile_args=["/O2"] if os.name == "nt" else UNIX,
    optional=True,  # without a compiler, the plain code runs
)
setup(ext_modules=[fused])
