"""All members in one launch on a GPU: norms and scaling as of each member alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from devices import DEVICE, INTERPRETED, kernels, needs_gpu
from secateur.groups import Groups, Layer, Member, batched_gpu
from secateur.groups.batched import MemberBatch
from secateur.kernels import gpu as launches

HALVES = 2**-6 if INTERPRETED else 0  # the interpreter cuts off what bfloat16 can't hold
KINDS = {  # shape, ids, view
    "leading": ((6, 3, 2, 2), torch.arange(6).reshape(6, 1, 1, 1), None),
    "second": ((4, 3, 3, 3), torch.arange(3).reshape(1, 3, 1, 1), None),
    "trailing": ((40, 6), torch.arange(6).reshape(1, 6), None),
    "runs of positions": ((6, 3, 2, 2), torch.arange(12).reshape(1, 3, 2, 2), None),
    "split dimensions": ((6, 3, 2, 2), torch.arange(12).reshape(6, 1, 2, 1), None),
    "one for all": ((6, 3, 2, 2), torch.zeros(1, 1, 1, 1, dtype=torch.int64), None),
    "single weights": ((4, 5), torch.arange(20).reshape(4, 5), None),
    "heads": ((8, 130), torch.arange(8).reshape(8, 1) // 4, None),
    "gaps": ((7, 5), torch.tensor([0, -1, 1, 1, -1, 2, 0]).reshape(7, 1), None),
    "blocks": ((8, 6), torch.arange(12).reshape(4, 1, 3, 1), (4, 2, 3, 2)),
}


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    with kernels():
        yield


def squares(members: list[Member], count: int) -> Tensor:
    """The squares of the norms by one member after the other, on the CPU."""
    total = torch.zeros(count, dtype=torch.float64)
    for member in members:
        values = member.parameter.detach().cpu()
        Member(member.name, values, member.ids.cpu(), member.shape).add_squares_(total)
    return total


@pytest.mark.parametrize("name", KINDS)
def test_norms_and_scaling_are_those_of_each_member(name: str) -> None:
    check(name, torch.float32)
    check(name, torch.float64)
    check(name, torch.bfloat16)
    if len(KINDS[name][0]) == 4:
        check(name, torch.float32, torch.channels_last)


@pytest.mark.parametrize("name", ["trailing", "heads"])
def test_large_tensors_are_cut_into_tiles(name: str, monkeypatch) -> None:
    monkeypatch.setattr(batched_gpu, "WORK", 1 << 14)
    monkeypatch.setattr(batched_gpu, "RUN", 50)
    check(name, torch.float32)


def check(name: str, dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format):
    """Compare one member's norms and scaling with what it does itself."""
    shape, ids, view = KINDS[name]
    torch.manual_seed(0)
    values = torch.randn(shape).to(DEVICE, dtype).contiguous(memory_format=layout)
    member = Member("w", values, ids, view)
    total = torch.zeros(member.stop, dtype=torch.float64, device=DEVICE)
    together = batched_gpu.OnGpu([member])
    assert together.add_squares_(total) == []
    torch.testing.assert_close(total.cpu(), squares([member], member.stop), rtol=1e-6, atol=0)
    other = torch.empty_like(values).copy_(values.flip(0))
    products, expected = torch.zeros(2, member.stop, dtype=torch.float64, device=DEVICE)
    assert together.add_products_(products, [other]) == []
    member.add_products_(expected, other)
    torch.testing.assert_close(products, expected, rtol=1e-12, atol=0)
    factors = torch.linspace(0, 1, member.stop, dtype=torch.float64, device=DEVICE)
    alone = Member("w", values.clone(), ids, view)
    alone.scale_(torch.cat([factors, factors.new_ones(1)]))
    assert together.scale_(factors) == []
    rtol = HALVES if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(values, alone.parameter, rtol=rtol, atol=0)


def test_groups_that_span_tensors_of_several_dtypes_add_up() -> None:
    torch.manual_seed(0)
    first = torch.randn(5, 7, device=DEVICE)
    second = torch.randn(3, 5, device=DEVICE).double()
    third = torch.randn(5, device=DEVICE)
    by_row, by_column = torch.arange(5).reshape(5, 1), torch.arange(5).reshape(1, 5)
    members = [
        Member("a", first, by_row),
        Member("b", second, by_column),
        Member("c", third, torch.tensor([4, 3, -1, 1, 0])),
    ]
    groups = Groups(tuple(members), (Layer("all", "custom", 0, 5),))
    expected = first.double().square().sum(1) + second.square().sum(0)
    expected += torch.tensor([1.0, 1, 0, 1, 1], device=DEVICE) * third.flip(0).square()
    torch.testing.assert_close(groups.norms().square(), expected, rtol=1e-6, atol=0)
    before = third.clone()
    groups.scale_(torch.tensor([0.0, 1, 1, 1, 0.5]))
    assert third.tolist() == (before * before.new_tensor([0.5, 1, 1, 1, 0])).tolist()
    assert not first[0].any() and not second[:, 0].any() and first[1].all()


def test_products_of_unlike_tensors_are_left_to_each_member() -> None:
    values = torch.randn(5, 7, device=DEVICE)
    members = [Member("w", values, torch.arange(5).reshape(5, 1)) for _ in range(4)]
    others = [torch.randn(5, 7, device=DEVICE) for _ in range(2)]
    given = [others[0], others[1].double(), torch.randn(7, 5, device=DEVICE).T, None]
    total = torch.zeros(5, dtype=torch.float64, device=DEVICE)
    assert batched_gpu.OnGpu(members).add_products_(total, given) == [1, 2]
    expected = (values.double() * others[0]).square().sum(1)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)


def test_some_of_the_groups_leave_the_others_alone() -> None:
    member = Member("w", torch.full((3, 2), 2.0, device=DEVICE), torch.tensor([[1], [0], [1]]))
    total = torch.ones(5, dtype=torch.float64, device=DEVICE)
    assert batched_gpu.OnGpu([member]).add_squares_(total) == []
    assert total.tolist() == [9.0, 17.0, 1.0, 1.0, 1.0]


def test_tables_are_made_once_and_follow_tensors_that_move() -> None:
    parameters = [torch.randn(4, 6, device=DEVICE), torch.randn(4, device=DEVICE)]
    ids = torch.arange(4)
    members = [Member("a", parameters[0], ids.reshape(4, 1)), Member("b", parameters[1], ids)]
    together = MemberBatch(members)

    def norms(tensors: list[Tensor | None] | None = None) -> Tensor:
        total = torch.zeros(4, dtype=torch.float64, device=DEVICE)
        assert together.add_squares_(total, tensors) == []
        return total

    first = norms()
    (tables,) = together._gpu._tables.values()
    doubled: list[Tensor | None] = [2 * parameter for parameter in parameters]
    torch.testing.assert_close(norms(doubled), 4 * first)
    assert list(together._gpu._tables.values()) == [tables]
    torch.testing.assert_close(norms([doubled[0], None]), norms() * 4 - 4 * parameters[1] ** 2)
    parameters[0].set_(torch.zeros(4, 6, device=DEVICE))
    torch.testing.assert_close(norms(), parameters[1].double() ** 2)


def test_groups_of_factor_one_keep_their_bits() -> None:
    parameter = torch.randn(64, 9, device=DEVICE)
    parameter[:, 0] = 1e-42  # subnormal
    before = parameter.clone()
    factors = torch.ones(64, dtype=torch.float64)
    factors[10] = 0.5
    member = Member("w", parameter, torch.arange(64).reshape(64, 1))
    version = parameter._version
    batched_gpu.OnGpu([member]).scale_(factors)
    untouched = torch.arange(64) != 10
    bits, bits_before = parameter.view(torch.int32).cpu(), before.view(torch.int32).cpu()
    assert torch.equal(bits[untouched], bits_before[untouched])
    assert not torch.equal(bits[10], bits_before[10]) and parameter._version > version


def test_what_a_table_would_outweigh_is_left_to_the_member(monkeypatch) -> None:
    monkeypatch.setattr(batched_gpu, "FEW", 10)
    weights = torch.randn(4, 5, device=DEVICE)
    single = Member("single", weights, torch.arange(20).reshape(4, 5))
    rows = Member("rows", weights.clone(), torch.arange(4).reshape(4, 1))
    strided = Member("strided", torch.randn(4, 10, device=DEVICE)[:, ::2], rows.ids)
    total = torch.zeros(20, dtype=torch.float64, device=DEVICE)
    assert batched_gpu.OnGpu([single, rows, strided]).add_squares_(total) == [0, 2]
    torch.testing.assert_close(total[:4], rows.parameter.double().square().sum(1))


def test_training_ends_on_its_budget() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).to(DEVICE)
    inputs = torch.randn(16, 6, device=DEVICE)
    groups = sc.neurons(model, inputs[:1])
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(groups=3), steps=6)
    for _ in range(6):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    assert groups.alive().sum() == 3


@needs_gpu
def test_sums_are_the_same_every_time_and_a_graph_can_hold_them() -> None:
    torch.manual_seed(0)
    shapes = [(64, 3, 7, 7), (256, 64, 3, 3), (1000, 512), (64,), (3072, 768)]
    members = [
        Member("w", torch.randn(shape, device="cuda"), ids)
        for shape in shapes
        for ids in [torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)) % 64]
    ]
    together = MemberBatch(members)
    totals = torch.zeros(20, 64, dtype=torch.float64, device="cuda")
    torch.cuda.synchronize()
    for total in totals:
        together.add_squares_(total)
    assert bool((totals == totals[0]).all())
    torch.testing.assert_close(totals[0].cpu(), squares(members, 64), rtol=1e-6, atol=0)

    factors = torch.rand(64, dtype=torch.float64, device="cuda")
    together.scale_(torch.ones_like(factors))  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        together.add_squares_(totals[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        totals.zero_()
        together.add_squares_(totals[0])
        together.scale_(factors)
        together.add_squares_(totals[1])
    graph.replay()
    torch.testing.assert_close(totals[1], totals[0] * factors**2, rtol=1e-5, atol=0)


@needs_gpu
def test_a_norm_and_a_scaling_take_three_launches() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(20))).cuda()
    groups = sc.neurons(model, torch.ones(1, 64, device="cuda"))
    factors = torch.rand(len(groups), dtype=torch.float64, device="cuda")
    groups.scale_(factors)
    groups.norms()  # compiles
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        groups.norms()
        groups.scale_(factors)
    names = [event.name for event in profile.events()]
    assert [names.count(name) for name in ("squares", "totals", "scale")] == [1, 1, 1]
    assert launches.able(torch.device("cuda", 0), torch.float32)


@needs_gpu
@pytest.mark.parametrize("precision", ["highest", "high"])
def test_tf32_does_not_pass_for_a_mistake(precision: str) -> None:
    """cuDNN rounds products to TF32 by default; the trial removal and `shrink` must not."""
    layers = [nn.Conv2d(3, 128, 3, padding=1)]
    for _ in range(6):
        layers += [nn.BatchNorm2d(128), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16 * 16, 10)).cuda()
    torch.set_float32_matmul_precision(precision)
    try:
        groups = sc.filters(model, torch.randn(2, 3, 16, 16, device="cuda"))
        assert [len(layer) for layer in groups.layers] == [128] * 7
        groups.scale_((torch.rand(len(groups)) < 0.5).double().cuda())
        sc.shrink(model, groups)
    finally:
        torch.set_float32_matmul_precision("highest")
