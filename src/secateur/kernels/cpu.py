"""Inner loops in one sweep each, compiled from the C files here when secateur was installed.

In and out: the same tensors as the plain code (root.py, rows.py), which runs where no compiler was
there, on other devices and for other dtypes; `takes` says which. Calls don't hold Python's lock.
"""

from __future__ import annotations

import ctypes
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ABI = 5  # of the functions below; a library left over from another version is not used
_NUMBER, _ARRAY = ctypes.c_int64, ctypes.c_void_p
_ROWS = (_NUMBER, _NUMBER)  # or two flags
_SIGNATURES = {
    "secateur_root": (*_ROWS, _ARRAY, _ARRAY, *_ROWS, *[_ARRAY] * 3, _NUMBER, _ARRAY, _ARRAY),
    "secateur_factors": (*_ROWS, _ARRAY, _NUMBER, _ARRAY, *_ROWS, _ARRAY),
    "secateur_norms": (*[_NUMBER] * 3, _ARRAY, _ARRAY),
    "secateur_scale": (*[_NUMBER] * 3, _ARRAY, _ARRAY),
    "secateur_squares": (_NUMBER, _ARRAY, _ARRAY),
    "secateur_multiply": (_NUMBER, _ARRAY, _ARRAY),
    "secateur_finite": (_NUMBER, _ARRAY, _ARRAY),
}
LONG_ROW, SPARE = 1 << 15, 1 << 12  # as in _fused.c; lines, blocks and samples of small rows
# What a part of _parts.c is made of, and how it calls the types of numbers.
PART = ("values", "type", "outer", "rows", "groups", "size", "ids", "others")
TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}
ONLY_FINITE = {torch.float16: 3}


def _load(folder: Path) -> ctypes.CDLL | None:
    """The compiled library in a folder, if there is one that this machine and version can use."""
    for path in (folder / f"_fused{suffix}" for suffix in EXTENSION_SUFFIXES):
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # built for another machine
                continue
            if library.secateur_abi() == ABI:
                for name, arguments in _SIGNATURES.items():
                    function = getattr(library, name)
                    function.argtypes, function.restype = arguments, None
                return library
    return None


_library = _load(Path(__file__).parent)


def implementation() -> str:
    """Say which code runs on float32 and float64 tensors of a CPU: "compiled" or "plain".

    Both give the same results to rounding. "plain" means that there was no C compiler when
    secateur was installed; once there is one, install it again.

    Example:
        >>> implementation() in ("compiled", "plain")
        True
    """
    return "plain" if _library is None else "compiled"


def available() -> bool:
    """Whether the compiled loops are there, and tensors have memory that they could read."""
    if _library is None or torch.compiler.is_compiling():
        return False
    return not torch._C._are_functorch_transforms_active()  # of torch.func


def takes(*tensors: Tensor) -> bool:
    """Whether the compiled loops can read these: float32 or 64, contiguous, not empty, on a CPU."""
    return available() and all(
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.device.type == "cpu"
        and tensor.dtype in (torch.float32, torch.float64)
        and tensor.is_contiguous()
        and tensor.numel() > 0
        for tensor in tensors
    )


def root(
    slope: Tensor,
    offset: Tensor,
    costs: Tensor,
    level: Tensor,
    start: Tensor | None = None,
    *,
    bounds: Tensor | None = None,
    weights: Tensor | None = None,
    spread: bool = False,
    finite: bool = False,
) -> tuple[Tensor, Tensor]:
    """Solve `envelope.root.root`'s equation for every row.

    Args:
        slope: (..., m), what `takes` takes; its sign is not looked at. With `bounds`, (lines,).
        offset: broadcasts to slope.
        costs: broadcasts to slope.
        level: (...,). With `bounds`, (rows,).
        start: (...,), a guess of the root.
        bounds: int64 (rows + 1,): rows of unequal length, such as one a layer; row i has the lines
            from bounds[i] to bounds[i + 1].
        weights: broadcasts to slope; slopes are then slope sqrt(weights / costs).
        spread: whether offsets are offset weights.
        finite: whether a slope that is inf makes the root NaN.

    Returns:
        (t, passes): float64 and int32 of shape (...,); passes says how often all lines of a row
        were looked at to refine its root.
    """
    level = level.double().contiguous()
    start = torch.zeros_like(level) if start is None else start.double().expand_as(level)
    t, passes = torch.empty_like(level), torch.empty_like(level, dtype=torch.int32)
    start, longest = start.contiguous(), slope.shape[-1]
    if bounds is not None:
        bounds = bounds.long().contiguous()
    capacity = max(longest // 32, min(longest // 8, 1 << 17)) + SPARE if longest >= LONG_ROW else 0
    scratch = torch.empty(3 * capacity, dtype=torch.float64)
    numbers, kept = _numbers(slope, offset, costs, weights)
    arguments = numbers.ctypes.data, spread, finite, level.data_ptr(), start.data_ptr()
    _library.secateur_root(  # pyright: ignore[reportOptionalMemberAccess]
        level.numel(), longest, None if bounds is None else bounds.data_ptr(), *arguments,
        scratch.data_ptr(), capacity, t.data_ptr(), passes.data_ptr(),
    )  # fmt: skip
    del kept
    return t, passes


def factors(
    slope: Tensor,
    offset: Tensor,
    t: Tensor,
    *,
    firm: bool,
    into: Tensor | None = None,
    costs: Tensor | None = None,
    weights: Tensor | None = None,
    spread: bool = False,
) -> Tensor:
    """Evaluate each line at its row's root t (...,) and turn it into a factor, (..., m).

        u / (u + offset),  times 1 + offset if firm,    u = clip(t |slope| - offset, 0, 1)

    They are multiplied into `into`, of slope's shape, dtype and layout; it may be slope itself.
    Costs, weights and spread are `root`'s.
    """
    out = torch.empty_like(slope) if into is None else into
    t = t.double().contiguous()
    numbers, kept = _numbers(slope, offset, costs, weights)
    size = slope.shape[-1]
    _library.secateur_factors(  # pyright: ignore[reportOptionalMemberAccess]
        slope.numel() // size, size, numbers.ctypes.data, spread, t.data_ptr(), firm,
        into is not None, out.data_ptr(),
    )  # fmt: skip
    del kept
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
    """`root` and `factors` of prox or firm shrinkage, without a copy of norms, weights or costs.

    Args:
        slope: (..., m), norms, or single weights with their signs.
        offset: (..., 1), the step of prox, or hardness / (1 - hardness) of firm shrinkage.
        costs: a number, or broadcasts to slope.
        weights: likewise.
        level: (...,).
        firm: which of the two.
        into: as in `factors`.
    """
    lines: dict[str, Any] = {"weights": weights, "spread": not firm}
    if weights.numel() == 1 == costs.numel():  # then all slopes share a factor, and need it not
        offset, lines = offset if firm else offset * weights, {}
    t, _ = root(slope, offset, costs, level, finite=True, **lines)
    return factors(slope, offset, t, firm=firm, into=into, costs=costs, **lines)


def norms(values: Tensor) -> Tensor:
    """The Euclidean norms of `values` (..., m, size) along its last dimension, float64 (..., m)."""
    out = torch.empty(values.shape[:-1], dtype=torch.float64)
    _call("norms", values, out.data_ptr())
    return out


def scale_(values: Tensor, factors: Tensor) -> Tensor:
    """Multiply `values` (..., m, size) by `factors` (..., m) in place; not where that is 1."""
    factors = factors.double().contiguous()
    _call("scale", values, factors.data_ptr())
    return values


def add_squares_(total: Tensor, parts: np.ndarray) -> None:
    """Add the squares of each part's numbers, times others if there are any, to their groups' sums.

    Args:
        total: (groups,), float64, contiguous; changed in place.
        parts: int64 (parts, 8), the columns of `PART`; whatever they point to is alive.
    """
    _sweep("squares", parts, total.data_ptr())


def multiply_(parts: np.ndarray, factors: Tensor) -> None:
    """Multiply each part's numbers by their groups' `factors`, (groups,), in place; not by 1."""
    factors = factors.double().contiguous()
    _sweep("multiply", parts, factors.data_ptr())


def finite(parts: np.ndarray) -> bool:
    """Whether the `size` numbers of each part are all finite."""
    found = ctypes.c_int64()
    _sweep("finite", parts, ctypes.addressof(found))
    return bool(found.value)


def _sweep(name: str, parts: np.ndarray, argument: int) -> None:
    getattr(_library, f"secateur_{name}")(len(parts), parts.ctypes.data, argument)


def _call(name: str, values: Tensor, *arguments: int) -> None:
    """Call a function of the library on all rows of `values`."""
    size = values.shape[-1]
    rows = values.numel() // size
    single = values.dtype == torch.float32
    getattr(_library, f"secateur_{name}")(rows, size, single, values.data_ptr(), *arguments)


def _numbers(
    slope: Tensor, offset: Tensor, costs: Tensor | None, weights: Tensor | None
) -> tuple[np.ndarray, list[Tensor]]:
    """What _fused.c calls Numbers, int64 (4, 4), of these; and what has to stay alive meanwhile."""
    kept, rows = [], []
    for tensor in (slope, offset, costs, weights):
        if tensor is None:
            rows.append((0, 0, 0, 0))
            continue
        tensor = _by_rows(tensor, slope)
        sizes = zip(tensor.shape, tensor.stride(), strict=True)
        strides = (stride if size > 1 else 0 for size, stride in sizes)
        rows.append((tensor.data_ptr(), tensor.dtype == torch.float32, *strides))
        kept.append(tensor)
    return np.array(rows, np.int64), kept


def _by_rows(tensor: Tensor, like: Tensor) -> Tensor:
    """A view (rows, m), float32 or 64, of what broadcasts to `like` (..., m)."""
    tensor = tensor if tensor.dtype == torch.float32 else tensor.double()
    if tensor.numel() == 1:
        return tensor.reshape(1, 1)
    return tensor.expand(like.shape).reshape(-1, like.shape[-1])
