"""Compile every kernel for GPUs that need not be there.

    python tests/gpu_kernels.py 80 90        # compute capabilities; prints a line a kernel

In: chips. Out: an error where a kernel is not sound for a chip. (Not in Triton's interpreter.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from secateur.kernels import gpu, triton_groups, triton_root, triton_rows

DOUBLES, INDICES, NUMBER = "*fp64", "*i64", "i32"
LINES = {
    "offset": DOUBLES,
    "offset_row": 0,
    "offset_line": 1,
    "cost": DOUBLES,
    "cost_row": NUMBER,
    "cost_line": NUMBER,
    "bounds": INDICES,
    "level": DOUBLES,
    "state": DOUBLES,
    "sums": DOUBLES,
}
TILES = {"tiles": INDICES, "addresses": INDICES, "factors": DOUBLES}
Kernel = tuple[Any, dict[str, Any]]


def kernels(kind: str) -> Iterator[Kernel]:
    """Every kernel with the types of its arguments; numbers are constants; `kind` is a dtype."""
    values = f"*{kind}"
    lines = {"slope": values, **LINES}
    yield triton_root.few, lines | {"start": DOUBLES, "BLOCK": gpu.FEW, "num_warps": 8}
    for first in (True, False):
        sizes = {"FIRST": first, "CHUNKS": gpu.CHUNKS, "BLOCK": gpu.BLOCK}
        yield triton_root.sweep, lines | sizes | {"next_state": DOUBLES, "next_sums": DOUBLES}
    for chunks in (0, gpu.CHUNKS):
        yield triton_root.finish, lines | {"CHUNKS": chunks, "BLOCK": gpu.BLOCK, "num_warps": 8}
    rows = {"values": values, "rows": "i64", "size": NUMBER, "ROWS": 16, "BLOCK": 64}
    yield triton_rows.norms, rows | {"out": DOUBLES}
    yield triton_rows.scale, rows | {"factors": DOUBLES}
    for scale in (True, False):
        shape = {"lines": "i64", "size": NUMBER, "root": DOUBLES, "BLOCK": gpu.BLOCK}
        options = {"out": values, "FIRM": scale, "SCALE": scale}
        yield triton_rows.factors, lines | shape | options
    names = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
    dtype = getattr(tl, names[kind])
    tiles = TILES | {"others": INDICES, "sums": DOUBLES, "DTYPE": dtype}
    yield from ((triton_groups.squares, tiles | {"TIMES": times}) for times in (True, False))
    yield triton_groups.scale, TILES | {"owners": INDICES, "DTYPE": dtype}
    slots = {"sums": DOUBLES, "order": INDICES, "bounds": INDICES, "out": DOUBLES}
    counts = {"groups": NUMBER, "most": NUMBER, "GROUPS": 16, "BLOCK": 64}
    yield triton_groups.totals, slots | counts


def compile_for(chip: int, kernel: Any, arguments: dict[str, Any]) -> int:
    """Compile a kernel, to machine code; the code's length."""
    options = {name: arguments[name] for name in ("num_warps",) if name in arguments}
    given = {name: arguments[name] for name in kernel.arg_names}
    constants = {name: kind for name, kind in given.items() if not isinstance(kind, str)}
    signature = given | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    made = triton.compile(source, target=GPUTarget("cuda", chip, 32), options=options)
    return len(made.asm["cubin"])


def main(chips: list[int]) -> None:
    for chip in chips:
        for kind in ("fp16", "bf16", "fp32", "fp64"):
            if kind == "bf16" and chip < 80:  # left to torch, as gpu.able says
                continue
            for kernel, arguments in kernels(kind):
                print(f"sm_{chip} {kind} {kernel.__name__}", compile_for(chip, kernel, arguments))


if __name__ == "__main__":
    main([int(chip) for chip in sys.argv[1:]])
