"""n of m: in every m consecutive inputs of every output, n weights stay (2:4 sparse hardware)."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from secateur.groups.elements import Elements
from secateur.groups.eligible import zeros_in_place
from secateur.groups.groups import Groups
from secateur.groups.members import Member
from secateur.groups.select import Ignore


def n_of_m(
    model: nn.Module,
    n: int = 2,
    m: int = 4,
    *,
    ignore: Ignore | str | nn.Module | type[nn.Module] = (),
) -> Groups:
    """Keep n of every m consecutive inputs of every weight row.

    A group is one element of a weight, and m groups that read m consecutive inputs for the same
    output (and the same position of a kernel) form a block, which keeps exactly n. Inputs run along
    the second dimension, as in linear layers and convolutions; along the first in transposed
    convolutions and in transformers' Conv1D; in stacked matrices of experts along the dimension
    that their module says. Nothing is removed: training ends with n elements in every block and
    zeros elsewhere, and `shrink` returns an equal copy and says so. Where the inputs are no
    multiple of m, the last ones are in no group and stay; embeddings are left alone.

    The kind carries the level, so the budget repeats it and is checked: `Budget(groups=n / m)`. In
    a sum with other kinds, the budget is theirs: what it counts in groups includes the n of every
    m, and FLOPs, parameters or bytes don't see them.

    Args:
        model: any module; it is not run.
        n: how many stay, 1 to m - 1.
        m: of how many consecutive inputs.
        ignore: names, modules or module types whose weights stay as they are.

    Returns:
        One group an element, block after block, one layer a parameter.

    Raises:
        ValueError: n is not in 1 to m - 1, an unknown name in `ignore`, or no weight has m inputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> groups = n_of_m(model, 2, 4)
        >>> print(groups)  # the second layer has fewer than 4 inputs
        Groups(24: 0 24)
    """
    if not (isinstance(n, int) and isinstance(m, int) and 1 <= n < m):
        raise ValueError(f"n_of_m(n={n!r}, m={m!r}): expected integers with 1 <= n < m")
    owners = dict(model.named_modules())

    def member(name: str, weight: nn.Parameter, start: int) -> Member | str:
        owner = owners[name.rpartition(".")[0]]
        if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
            return "an embedding has no inputs"
        dim = _input_dim(owner, weight)
        inputs = weight.shape[dim]
        if inputs < m:
            return f"it has {inputs} inputs, fewer than {m}"
        return Elements(name, weight, start, dim, inputs // m * m)

    return zeros_in_place(model, ignore, kind=f"{n}_of_{m}", member=member, blocks=(n, m))


def _input_dim(owner: nn.Module, weight: nn.Parameter) -> int:
    """The dimension of a module's weight along which its inputs run."""
    if isinstance(owner, _ConvTransposeNd):
        return 0
    if tuple(weight.shape) == (getattr(owner, "nx", None), getattr(owner, "nf", None)):
        return 0  # transformers' Conv1D stores (in, out), and these two sizes beside it
    if weight.ndim == 3 and getattr(owner, "is_transposed", None) is False:
        return 2  # transformers' stacked experts, each stored (out, in)
    return 1
