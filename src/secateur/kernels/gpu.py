"""The room's inner loops on a GPU, in Triton: what cpu.py is on a CPU.

In and out: the same tensors as the plain code (root.py, rows.py), which runs where Triton is not
installed; `takes` says which. Nothing here waits for the device, and how many kernels are launched
depends on shapes only, so that CUDA graphs can capture it.
"""

from __future__ import annotations

import importlib.util
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

DEVICES = ("cuda",)  # what torch calls ROCm's GPUs too
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FEW = 2048  # lines that one program holds in its registers
ALONE = 1 << 15  # lines up to which one program a row goes on alone
SWEEPS = 8  # launches over all multiprocessors for longer rows; four to six passes are usual
CHUNKS = 1024  # of a longer row, a program each
BLOCK = 1024  # numbers that a program looks at together


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels can read these: floating, contiguous, not empty, on a GPU."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(
        tensor.device.type in DEVICES
        and type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.is_contiguous()
        and tensor.numel() > 0
        and able(tensor.device, tensor.dtype)
        for tensor in tensors
    )


@cache
def able(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton is installed and works on this device, for numbers of this kind.

    It is tried out: beside a driver, Triton needs a C compiler, which not every machine has.
    """
    if importlib.util.find_spec("triton") is None or dtype not in DTYPES:
        return False
    least = (8, 0) if dtype == torch.bfloat16 else (7, 0)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < least:
        return False
    try:
        scale_(torch.ones(1, 1, dtype=dtype, device=device), torch.ones(1, device=device))
    except Exception as error:  # whatever it is, there is another way
        warnings.warn(
            f"Triton does not work on {device} ({error}); plain operations take its place, which "
            "give the same results in more time",
            stacklevel=2,
        )
        return False
    return True


def root(
    slope: Tensor,
    offset: Tensor,
    costs: Tensor,
    level: Tensor,
    start: Tensor | None = None,
    *,
    bounds: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Solve `envelope.root.root`'s equation for every row, all rows in the same launches.

    Two launches for rows of up to ALONE lines, 2 + SWEEPS for longer ones.

    Args:
        slope: (..., m), what `takes` takes; its sign is not looked at. With `bounds`, (lines,).
        offset: broadcasts to slope. With `bounds`: a number, or (lines,).
        costs: as offset.
        level: (...,). With `bounds`, (rows,).
        start: (...,), a guess of the root.
        bounds: int64 (rows + 1,), on the device: rows of unequal length, such as one a layer; row i
            has the lines from bounds[i] to bounds[i + 1].

    Returns:
        (t, passes): float64 of shape (...,); passes says how often all lines of a row were looked
        at to find its root.

    Example:
        >>> slope, bounds = torch.rand(10).cuda(), torch.tensor([0, 4, 10]).cuda()  # doctest: +SKIP
        >>> zero, one = torch.zeros_like(slope), torch.ones_like(slope)  # doctest: +SKIP
        >>> root(slope, zero, one, torch.tensor([2.0, 3.0]).cuda(), bounds=bounds)  # doctest: +SKIP

    Source: as _fused.c; the sample and the chunks are our own.
    """
    from secateur.kernels import triton_root as kernels

    longest, rows = slope.shape[-1], level.numel()
    if bounds is None:
        bounds = torch.arange(rows + 1, device=slope.device) * longest
    level = level.double().contiguous()
    start = torch.zeros_like(level) if start is None else start.double().expand_as(level)
    state = torch.empty((2, rows, kernels.STATE.value), dtype=torch.float64, device=slope.device)
    sums = state.new_empty((2, rows, CHUNKS, kernels.SUMS.value) if longest > ALONE else (2, 1))
    lines = (slope, *_strided(offset, slope), *_strided(costs, slope), bounds, level)
    block = min(FEW, max(32, _power_of_two(longest)))
    launch(kernels.few, rows, *lines, start.contiguous(), state[0], BLOCK=block, num_warps=8)
    at, chunks = 0, CHUNKS if longest > ALONE else 0
    for turn in range(SWEEPS if chunks else 0):
        searches = state[at], sums[at], state[1 - at], sums[1 - at]
        sizes = {"FIRST": turn == 0, "CHUNKS": chunks, "BLOCK": BLOCK}
        launch(kernels.sweep, (rows, chunks), *lines, *searches, **sizes)
        at = 1 - at
    if longest > FEW:
        sizes = {"CHUNKS": chunks, "BLOCK": BLOCK, "num_warps": 8}
        launch(kernels.finish, rows, *lines, state[at], sums[at], **sizes)
    found = state[at].view(*level.shape, -1)
    return found[..., 2], found[..., 4]


def factors(
    slope: Tensor, offset: Tensor, t: Tensor, *, firm: bool, into: Tensor | None = None
) -> Tensor:
    """Evaluate each line at its row's root, as cpu.py's does, in one launch."""
    from secateur.kernels import triton_rows as kernels

    out = torch.empty_like(slope) if into is None else into
    lines, root = slope.numel(), t.double().contiguous()
    shape = lines, slope.shape[-1]
    launch(
        kernels.factors, -(-lines // BLOCK), slope, *shape, *_strided(offset, slope), root, out,
        FIRM=firm, SCALE=into is not None, BLOCK=BLOCK,
    )  # fmt: skip
    if into is not None and not into.is_inference():
        increment_version(into)  # as any operator in place does, for autograd
    return out


def shrunk(
    slope: Tensor,
    offset: Tensor,
    costs: Tensor,
    weights: Tensor,
    level: Tensor,
    *,
    firm: bool,
    into: Tensor | None = None,
) -> Tensor:
    """`root` and `factors` of prox or firm shrinkage, as cpu.py's `shrunk`."""
    if not weights.numel() == 1 == costs.numel():
        slope = slope.double() * (weights.double() / costs.double()).sqrt()
    offset = offset if firm else offset * weights.double()
    t, _ = root(slope, offset, costs, level)
    return factors(slope, offset, t, firm=firm, into=into)


def norms(values: Tensor) -> Tensor:
    """The Euclidean norms of `values` (..., m, size) along its last dimension, float64 (..., m)."""
    from secateur.kernels import triton_rows as kernels

    out = torch.empty(values.shape[:-1], dtype=torch.float64, device=values.device)
    _over_rows(kernels.norms, values, out)
    return out


def scale_(values: Tensor, factors: Tensor) -> Tensor:
    """Multiply `values` (..., m, size) by `factors` (..., m) in place; not where that is 1."""
    from secateur.kernels import triton_rows as kernels

    _over_rows(kernels.scale, values, factors.double().contiguous())
    if not values.is_inference():
        increment_version(values)  # as any operator in place does, for autograd
    return values


def _over_rows(kernel: Any, values: Tensor, numbers: Tensor) -> None:
    """Launch a kernel on values (..., m, size) and m numbers, several rows a program."""
    rows, size = numbers.numel(), values.shape[-1]
    along = min(_power_of_two(size), BLOCK)
    across = BLOCK // along
    shape = {"ROWS": across, "BLOCK": along}
    launch(kernel, -(-rows // across), values, rows, size, numbers, **shape)


def launch(
    kernel: Any, programs: int | tuple[int, int], first: Tensor, *others: Any, **options: Any
) -> None:
    """Run so many programs of a kernel on the GPU of its first argument."""
    with torch.cuda.device_of(first):
        kernel[programs if isinstance(programs, tuple) else (programs,)](first, *others, **options)


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _strided(tensor: Tensor, like: Tensor) -> tuple[Tensor, int, int]:
    """A float64 tensor whose number for line i of row r lies at r * the first step + i * the other.

    It broadcasts to `like` (..., m), whose lines are counted through all rows.
    """
    tensor = tensor.double()
    if tensor.numel() == 1:
        return tensor, 0, 0
    if tensor.ndim == like.ndim and tensor.shape[-1] == 1:  # one a row
        return tensor.expand(*like.shape[:-1], 1).contiguous(), 1, 0
    return tensor.expand(like.shape).contiguous(), 0, 1
