"""How a model is run to be measured: in eval mode, on the example it was given, and left as it was.

An example (a tensor, a tuple of tensors or a dict of keyword tensors; or a list of such, of which
the first is measured) flows in; a call of the model flows out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils._pytree import tree_leaves


class Method(NamedTuple):
    """An example that calls another method than `forward`; made by `method`."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Example = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Method


def method(name: str, *args: Any, **kwargs: Any) -> Method:
    """An example that calls another method of the model than `forward`, such as a projection.

    Groups then follow what it runs, too: `example=[x, secateur.method("project", z)]`. The first
    example is one of `forward`, since costs are counted on it.

    Args:
        name: the method's name.
        args: its positional arguments.
        kwargs: its keyword arguments.

    Example:
        >>> method("project", torch.zeros(1, 3)).name
        'project'
    """
    return Method(name, args, kwargs)


@contextmanager
def calling(model: nn.Module, example: Example) -> Iterator[None]:
    """Inside, `model(...)` runs the method that an example calls, `forward` if it names none.

    Raises:
        AttributeError: the model has no such method.
    """
    if not isinstance(example, Method):
        yield
        return
    with forwarding(model, getattr(model, example.name)):
        yield


@contextmanager
def forwarding(model: nn.Module, function: Callable[..., Any]) -> Iterator[None]:
    """Inside, `model(...)` runs this function in the place of `forward`."""
    own = vars(model)
    before = own.get("forward")
    own["forward"] = function
    try:
        yield
    finally:
        del own["forward"]
        if before is not None:
            own["forward"] = before


def arguments(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Split an example into the positional and the keyword arguments of one call of the model.

    Args:
        example: A tensor (one positional argument), a tuple (the positional arguments in order),
            or a mapping from names to values (the keyword arguments); of several examples in a
            list, the first.

    Returns:
        `(args, kwargs)` such that the model is called as `model(*args, **kwargs)`.

    Raises:
        TypeError: The example is none of these.

    Example:
        >>> args, kwargs = arguments(torch.zeros(1, 3))
        >>> len(args), kwargs
        (1, {})
    """
    if isinstance(example, list):
        example = examples_of(example)[0]
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Method):
        return example.args, dict(example.kwargs)
    if isinstance(example, tuple):
        return tuple(example), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    raise TypeError(
        f"example is a {type(example).__name__}; expected a tensor, a tuple of tensors (positional "
        "arguments) or a dict of tensors (keyword arguments); or several of these in a list."
    )


def examples_of(example: Example) -> list[Any]:
    """Each of several examples in a list; anything else is one example.

    Raises:
        ValueError: The list is empty, or its first calls no `forward`.

    Example:
        >>> short, long = torch.zeros(1, 3), torch.zeros(1, 7)
        >>> len(examples_of([short, (long, True)])), len(examples_of((short, long)))
        (2, 1)
    """
    found = example if isinstance(example, list) else [example]
    if not found:
        raise ValueError("example=[] holds no example; write one, or several: [a, b]")
    if isinstance(found[0], Method):
        raise ValueError(
            f"the first example calls {found[0].name}, and costs are counted on it: write one of "
            "forward first, example=[x, secateur.method(...)]"
        )
    return found


def without_shells(named: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors or modules by the names that they have without shells around single modules.

    Example:
        >>> without_shells({"body._orig_mod.weight": 1})
        {'body.weight': 1}
    """
    for shell in ("_orig_mod.", "_checkpoint_wrapped_module."):  # compiled, and checkpointed
        named = {name.replace(shell, ""): value for name, value in named.items()}
    return dict(named)


_SHELLS = nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside shells: torch.compile, (Distributed)DataParallel, AveragedModel.

    Their parameters are the inner model's own, under longer names.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(net)) is net
        True
    """
    while True:
        inner = getattr(model, "_orig_mod", None)  # torch.compile
        if isinstance(model, _SHELLS):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def forward(model: nn.Module, example: Example) -> Callable[[], Any]:
    """Return a function without arguments that runs the model once on the example.

    Raises:
        TypeError: The example is not a tensor, tuple, list or mapping.
        ValueError: A tensor of the example is on a device where the model has nothing.

    Example:
        >>> forward(nn.Linear(3, 2), torch.zeros(1, 3))().shape
        torch.Size([1, 2])
    """
    args, kwargs = arguments(example)
    check_devices(model, example)
    return lambda: model(*args, **kwargs)


def tensors_of(tree: Any) -> list[Tensor]:
    """Return every tensor in a nest of tuples, lists and dicts, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def inputs_of(example: Example) -> list[Tensor]:
    """Return every tensor of an example."""
    return tensors_of(arguments(example))


def state_of(model: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a model, each object once."""
    return [*model.parameters(), *model.buffers()]


def device_of(model: nn.Module, example: Example = ()) -> torch.device:
    """Return the device of the model's first parameter or buffer, or else of the example."""
    tensors = state_of(model) or inputs_of(example)
    return tensors[0].device if tensors else torch.device("cpu")


def check_devices(model: nn.Module, example: Example) -> None:
    """Refuse an example that lies on a device where the model has no parameter and no buffer."""
    homes = {tensor.device for tensor in state_of(model)}
    for tensor in inputs_of(example):
        if homes and tensor.device not in homes:
            raise ValueError(
                f"model and example are on different devices:\n"
                f"  model:   {', '.join(sorted(map(str, homes)))}\n"
                f"  example: {tensor.device}\n"
                "Move one to the other first, e.g. example.to(next(model.parameters()).device)."
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode; afterwards every submodule has its own training flag again.

    Example:
        >>> net = nn.Sequential(nn.Dropout(), nn.Linear(2, 2).eval())
        >>> with evaluating(net):
        ...     net[0].training
        False
        >>> net[0].training, net[1].training
        (True, False)
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Turn the fused path of nn.MultiheadAttention off: it hides its matrix products from torch."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def without_cudnn() -> Iterator[None]:
    """PyTorch's own kernels instead of cuDNN's; nothing else that was set for cuDNN is touched."""
    before = torch.backends.cudnn.enabled
    torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


@contextmanager
def full_precision() -> Iterator[None]:
    """Products and convolutions as precise as their numbers, so that results can be compared.

    TF32, which cuDNN takes by default, and bfloat16 in the place of float32 round so coarsely that
    a change of the order of a sum would pass for a mistake; fast convolutions are little better.
    """
    mkldnn = torch.backends.mkldnn
    named: list[Any] = [torch.backends.cuda.matmul]
    named += [getattr(mkldnn, name, None) for name in ("matmul", "conv")]
    backends = [backend for backend in named if hasattr(backend, "fp32_precision")]
    before = [backend.fp32_precision for backend in backends]
    common = None if backends else torch.get_float32_matmul_precision()  # before torch 2.9
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        if common is not None:
            torch.set_float32_matmul_precision("highest")
        with without_cudnn():
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
        if common is not None:
            torch.set_float32_matmul_precision(common)
