"""Training that is split over processes: what every rank runs in the tests of it.

Each function is given its rank and how many there are, and returns plain values and whole tensors.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import secateur as sc
from optim.training import several
from secateur.optim.support import Support

STEPS = 20  # the groups are chosen at step 14
BATCH = 16
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "several": several,
}


def network(seed: int = 0) -> nn.Sequential:
    """13 + 7 = 20 neurons, which two processes can't share evenly; float64."""
    torch.manual_seed(seed)
    layers = nn.Linear(12, 13), nn.Tanh(), nn.Linear(13, 7), nn.ReLU(), nn.Linear(7, 1)
    return nn.Sequential(*layers).double()


class Residual(nn.Module):
    """A feed-forward branch behind a normalisation, and a layer that reads the sum; float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 10), nn.Linear(10, 12)
        self.out = nn.Linear(12, 1)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x + self.down(self.up(self.norm(x)).relu()))


def batch(number: int) -> tuple[Tensor, Tensor]:
    """Batch `number`: inputs (BATCH, 12) and targets (BATCH, 1)."""
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(BATCH, 12, generator=generator).double()
    return x, (x[:, :3].sin().sum(1, keepdim=True) + x[:, 3:4] * x[:, 4:5])


def grouped(model: nn.Module) -> sc.Groups:
    return sc.neurons(model, batch(0)[0][:2])


def proximal(
    model: nn.Module, groups: sc.Groups, name: str = "AdamW", **options: Any
) -> sc.Proximal:
    options = {"budget": sc.Budget(params=0.5), **options}
    if "lam" not in options:
        options["schedule"] = sc.Homotopy(STEPS, freeze=0.6)
    return sc.Proximal(OPTIMIZERS[name](model.parameters()), groups, **options)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: range = range(STEPS),
    rank: int = 0,
    world: int = 1,
) -> list[float]:
    """Train on this rank's part of every batch; the losses over whole batches."""
    losses = []
    for number in steps:
        x, y = (part.chunk(world)[rank] for part in batch(number))
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        loss = loss.detach().clone()
        if world > 1:
            dist.all_reduce(loss)
        losses.append(float(loss) / world)
    return losses


def whole(model: nn.Module) -> dict[str, Tensor]:
    """All of a model's tensors, gathered for the comparison."""
    state = model.state_dict()
    return {n: (t.full_tensor() if isinstance(t, DTensor) else t).clone() for n, t in state.items()}


def outcome(model: nn.Module, optimizer: sc.Proximal, losses: list[float]) -> dict[str, Any]:
    """What must be the same, however training was split."""
    return {
        "losses": losses,
        "alive": optimizer.groups.alive(),
        "kept": optimizer.kept,
        "frozen": optimizer.frozen,
        "spent": optimizer.spent,
        "weights": whole(model),
    }


def alone(name: str = "AdamW", make: Callable[[], nn.Module] = network, **options: Any) -> Any:
    """The same training in one process."""
    model = make()
    optimizer = proximal(model, grouped(model), name, **options)
    return outcome(model, optimizer, train(model, optimizer))


# -- the ways to split -----------------------------------------------------------------------------


def sharded(model: nn.Module, mesh: Any = None) -> nn.Module:
    """The model under FSDP, a unit a layer."""
    for layer in model.children():
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def under_fsdp(name: str = "AdamW", **options: Any) -> tuple[nn.Module, sc.Proximal]:
    model = network()
    groups = grouped(model)
    groups = groups.on(sharded(model))
    return model, proximal(model, groups, name, **options)


def fsdp(rank: int, world: int, name: str, **options: Any) -> Any:
    model, optimizer = under_fsdp(name, **options)
    losses = train(model, optimizer, rank=rank, world=world)
    return {**outcome(model, optimizer, losses), "stationarity": stationarity(model, optimizer)}


def fsdp_of_wrapped_layers(rank: int, world: int) -> Any:
    """With activation checkpointing, which puts modules into others and renames parameters."""
    model = network()
    groups = grouped(model)
    for number in (0, 2):
        model[number] = checkpoint_wrapper(model[number])
    optimizer = proximal(model, groups.on(sharded(model)))
    losses = train(model, optimizer, rank=rank, world=world)
    return {**outcome(model, optimizer, losses), "weights": {*get_model_state_dict(model)}}


def stationarity(model: nn.Module, optimizer: sc.Proximal) -> float:
    """On one whole batch, which every rank sees."""
    optimizer.zero_grad()
    x, y = batch(0)
    nn.functional.mse_loss(model(x), y).backward()
    return optimizer.stationarity()


def ddp(rank: int, world: int, name: str, **options: Any) -> Any:
    """Ranks start from different seeds, which DDP makes equal; and step one after the other."""
    model = DistributedDataParallel(network(seed=0 if rank == 0 else 7))
    optimizer = proximal(model, grouped(model), name, **options)
    step = optimizer.step

    def in_turn(*args: Any) -> Any:
        for turn in range(world):
            if turn == rank:
                step(*args)  # with any communication it would wait for the others for ever
            dist.barrier()

    optimizer.step = in_turn
    losses = train(model, optimizer, rank=rank, world=world)
    return outcome(model.module, optimizer, losses)


def tensor_parallel(rank: int, world: int, name: str, sequence: bool) -> Any:
    """Every rank sees whole batches; with `sequence`, the norm's gradients are partial sums."""
    model = Residual()
    groups = grouped(model) + on_norm(model)
    mesh = init_device_mesh("cpu", (world,))
    rows = Shard(0)
    plan = {
        "norm": SequenceParallel(sequence_dim=0),
        "up": ColwiseParallel(input_layouts=rows),
        "down": RowwiseParallel(output_layouts=rows),
    }
    parallelize_module(
        model,
        mesh,
        plan if sequence else {"up": ColwiseParallel(), "down": RowwiseParallel()},  # pyright: ignore
    )
    optimizer = proximal(model, groups.on(model), name, budget=sc.Budget(groups=11))
    losses = train(Rows(model, mesh) if sequence else model, optimizer)
    return {**outcome(model, optimizer, losses), "kinds": kinds(model)}


class Rows(nn.Module):
    """A model that is given the rows of a batch that are here, and gives all of the outputs."""

    def __init__(self, model: nn.Module, mesh: Any) -> None:
        super().__init__()
        self.model, self.mesh = model, mesh

    def forward(self, x: Tensor) -> Tensor:
        shares = DTensor.from_local(x, self.mesh, [Replicate()]).redistribute(placements=[Shard(0)])
        model = self.model
        branch = model.down(model.up(model.norm(shares.to_local())).relu())
        whole = DTensor.from_local(branch, self.mesh, [Shard(0)]).full_tensor()
        return model.out(x + whole)


def on_norm(model: nn.Module) -> sc.Groups:
    """Groups of two entries of the normalisation's scale each."""
    return sc.custom(model, {"norm.weight": torch.arange(12) // 2})


def kinds(model: nn.Module) -> dict[str, str]:
    """How each parameter and its gradient are split."""
    return {
        name: f"{p.placements} {p.grad.placements}" if isinstance(p, DTensor) else "plain"
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def in_two_ways(rank: int, world: int, name: str) -> Any:
    """FSDP over tensor parallel: two ranks share rows and columns, two share what is left."""
    model = Residual()
    groups = grouped(model) + on_norm(model)
    mesh = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("data", "tensor"))
    plan = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    parallelize_module(model, mesh["tensor"], plan)  # pyright: ignore[reportArgumentType]
    sharded(model, mesh["data"])
    optimizer = proximal(model, groups.on(model), name, budget=sc.Budget(groups=11))
    losses = train(model, optimizer, rank=mesh.get_local_rank("data"), world=2)
    return outcome(model, optimizer, [loss / (world // 2) for loss in losses])


# -- groups, without training ----------------------------------------------------------------------


def every_kind() -> dict[str, tuple[nn.Module, sc.Groups]]:
    """A small model and groups for each kind that has its own way of numbering."""
    found: dict[str, tuple[nn.Module, sc.Groups]] = {}

    def add(name: str, make: Callable[[nn.Module, Tensor], sc.Groups], *layers: nn.Module) -> None:
        torch.manual_seed(3)
        model = nn.Sequential(*layers).double()
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        x = torch.randn(2, 3, 6, 6) if isinstance(layers[0], nn.Conv2d) else torch.randn(2, 6)
        found[name] = model, make(model, x.double())

    convolutions = (
        *(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 7, 3)),
        *(nn.Flatten(), nn.Linear(28, 3)),
    )
    add("filters", sc.filters, *convolutions)
    add("shapes", sc.shapes, *convolutions)
    linear = nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 1)
    add("neurons", sc.neurons, *linear)
    add("channels", sc.channels, *linear)
    add("blocks", lambda m, _: sc.blocks(m, (2, 2)), *linear[:2], nn.Linear(9, 8))
    add("even blocks", lambda m, _: sc.blocks(m, (3, 3)), *linear[:2], nn.Linear(9, 6))
    add("2:4", lambda m, _: sc.n_of_m(m, 2, 4), *linear)
    add("weights", lambda m, _: sc.weights(m), *linear)
    ids = {"0.weight": torch.tensor([0, -1, 1, 0, 2, -1])}
    add("custom", lambda m, _: sc.custom(m, {**ids, "2.bias": torch.tensor([3])}), *linear)
    add("together", lambda m, x: sc.neurons(m, x) + sc.weights(m, ignore=["0"]), *linear)
    return found


def spread_out(model: nn.Module, dim: int | None) -> None:
    """Split every parameter along a dimension (the last one it has, at most), or copy it."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name, parameter in list(model.named_parameters()):
        owner = model.get_submodule(name.rpartition(".")[0])
        way = Replicate() if dim is None else Shard(min(dim, parameter.ndim - 1))
        split = nn.Parameter(distribute_tensor(parameter.detach(), mesh, [way]))
        setattr(owner, name.rpartition(".")[2], split)


def kinds_when_split(rank: int, world: int, dim: int | None) -> dict[str, Any]:
    """Norms, liveness, scaled and masked tensors of every kind."""
    found = {}
    for name, (model, groups) in every_kind().items():
        torch.manual_seed(5)
        factors = torch.randn(len(groups)).double().abs()
        factors[::3] = 0
        spread_out(model, dim)
        groups = groups.on(model)
        norms, alive = groups.norms(), groups.alive()
        groups.scale_(factors)
        scaled = whole(model)
        dead = groups.alive()
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        kept = (factors != 0).numpy()
        Support(groups, kept).clear_gradients_()
        gradients = [p.grad.full_tensor() for p in model.parameters()]  # pyright: ignore
        empty = sum(p.to_local().numel() == 0 for p in model.parameters())  # pyright: ignore
        found[name] = {
            "values": [norms, alive, scaled, dead, gradients],
            "empty": empty,
        }
    return found


def kinds_alone() -> dict[str, Any]:
    """The same in one process, by hand: factors spread over whole parameters."""
    found = {}
    for name, (model, groups) in every_kind().items():
        torch.manual_seed(5)
        factors = torch.randn(len(groups)).double().abs()
        factors[::3] = 0
        norms, alive = groups.norms(), groups.alive()
        groups.scale_(factors)
        masks = {n: torch.ones_like(p) for n, p in model.named_parameters()}
        for member in groups.members:
            masks[member.name] *= member.spread(groups.pad((factors != 0).double()))
        found[name] = [norms, alive, whole(model), groups.alive(), list(masks.values())]
    return found


def forgotten(rank: int, world: int) -> str:
    """What is said where groups are still those of the model before it was split."""
    model = network()
    groups = grouped(model)
    sharded(model)
    try:
        proximal(model, groups)
    except ValueError as error:
        return str(error)
    return "nothing"


# -- communication and failures --------------------------------------------------------------------


def sent_by_steps(rank: int, world: int, importance: Any) -> list[dict[str, int]]:
    """Which collectives each optimizer step took."""
    model, optimizer = under_fsdp(importance=importance)
    found = []
    for number in range(STEPS):
        x, y = (part.chunk(world)[rank] for part in batch(number))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        with CommDebugMode() as sent:
            optimizer.step()
        found.append({str(name): count for name, count in sent.get_comm_counts().items()})
    return found


def bad_gradient_on_one_rank(rank: int, world: int) -> tuple[str, bool]:
    """What each rank is told, and whether its weights were left as they were."""
    model, optimizer = under_fsdp()
    train(model, optimizer, range(2), rank, world)
    before = whole(model)
    x, y = batch(2)
    nn.functional.mse_loss(model(x), y).backward()
    if rank == 1:
        gradient = model[2].bias.grad  # pyright: ignore
        gradient.to_local()[0] = float("nan")  # pyright: ignore
    try:
        optimizer.step()
    except FloatingPointError as error:
        after = whole(model)
        return str(error), all(torch.equal(before[name], after[name]) for name in before)
    return "nothing", False


def killed(rank: int, world: int, way: str) -> None:
    """Rank 1 is killed in the middle of training."""
    model, optimizer = under_fsdp()
    if way == "ddp":
        model = DistributedDataParallel(network())
        optimizer = proximal(model, grouped(model))
    train(model, optimizer, range(3), rank, world)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    train(model, optimizer, range(3, STEPS), rank, world)


# -- checkpoints -----------------------------------------------------------------------------------


def save(folder: str, model: nn.Module, optimizer: sc.Proximal) -> None:
    state = {"model": get_model_state_dict(model)}
    dcp.save(
        {**state, "optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folder
    )


def restore(folder: str, model: nn.Module, optimizer: sc.Proximal) -> None:
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])


def plain(name: str, **options: Any) -> tuple[nn.Module, sc.Proximal]:
    model = network()
    return model, proximal(model, grouped(model), name, **options)


def train_and_save(
    rank: int, world: int, folder: str, name: str, steps: int, **options: Any
) -> Any:
    model, optimizer = under_fsdp(name, **options) if world > 1 else plain(name, **options)
    losses = train(model, optimizer, range(steps), rank, world)
    save(folder, model, optimizer)
    return losses


def resume(rank: int, world: int, folder: str, name: str, steps: int, **options: Any) -> Any:
    model, optimizer = under_fsdp(name, **options) if world > 1 else plain(name, **options)
    restore(folder, model, optimizer)
    losses = train(model, optimizer, range(steps, STEPS), rank, world)
    return outcome(model, optimizer, losses)


def full_state(rank: int, world: int, name: str, steps: int) -> Any:
    """Gather everything on rank 0, give it back to new ones on every rank, and train on."""
    model, optimizer = under_fsdp(name)
    losses = train(model, optimizer, range(steps), rank, world)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    state = get_optimizer_state_dict(model, optimizer, options=options)
    model, optimizer = under_fsdp(name)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, weights, options=options)
    set_optimizer_state_dict(model, optimizer, state, options=options)
    losses += train(model, optimizer, range(steps, STEPS), rank, world)
    return outcome(model, optimizer, losses)


def shrunk_on_rank_0(rank: int, world: int, name: str) -> Any:
    """Train, gather a full state dict on rank 0, and shrink there; its outputs on a batch."""
    model, optimizer = under_fsdp(name)
    train(model, optimizer, rank=rank, world=world)
    try:
        sc.shrink(model, optimizer.groups)
        refusal = ""
    except ValueError as error:
        refusal = str(error)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    if rank:
        return refusal, len(state)
    complete = network(seed=1)
    complete.load_state_dict(state)
    small = sc.shrink(complete, optimizer.groups)
    return refusal, str(small), small(batch(0)[0]).detach()


# -- running averages ------------------------------------------------------------------------------


def averages(rank: int, world: int, broadcast: bool) -> Any:
    """A layer's means after training in DDP, and the plain mean of what this rank's layer saw."""
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), nn.BatchNorm1d(8, momentum=0.01), nn.ReLU(), nn.Linear(8, 1)
    model = nn.Sequential(*layers).double()
    groups = sc.neurons(model, torch.ones(2, 6, dtype=torch.float64))
    ddp = DistributedDataParallel(model, broadcast_buffers=broadcast)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = sc.Homotopy(STEPS, freeze=0.5)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=3), schedule=schedule)
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().mean(0)))
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(2 * step + rank)
        rows = torch.randn(16, 6, generator=generator, dtype=torch.float64) + 1
        optimizer.zero_grad()
        ddp(rows).square().mean().backward()
        optimizer.step()
    mean = model[1].running_mean
    assert isinstance(mean, Tensor)
    return {"found": mean.clone(), "plain": torch.stack(seen[STEPS // 2 :]).mean(0)}
