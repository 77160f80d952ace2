"""What `Groups.norms`, `alive` and `scale_` allocate, as torch's own allocator reports it."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from secateur.groups import Groups, Layer, Member
from secateur.groups.elementwise import Elements

SHAPE = (256, 512, 3, 9)
NUMEL = math.prod(SHAPE)


def peak(run: Callable[[], object]) -> int:
    """The most bytes that were allocated at once during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def test_the_peak_is_measured():
    x = torch.ones(1000, 1000)
    assert peak(lambda: x.double().square()) == 16_000_000
    assert peak(lambda: x.mul_(2)) < 100


def of(ids: Tensor, shape: tuple[int, ...] | None = None) -> Callable[[nn.Parameter], Member]:
    return lambda weight: Member("w", weight, ids, shape)


KINDS: dict[str, Callable[[nn.Parameter], Member]] = {
    "filters": of(torch.arange(256).view(-1, 1, 1, 1)),
    "channels": of(torch.arange(512).view(1, -1, 1, 1)),
    "blocks": of(torch.arange(64 * 3456).view(64, 1, 3456, 1), (64, 4, 3456, 4)),
    "pairs": of(torch.arange(NUMEL // 2).view(1, *SHAPE[1:], 128), (2, *SHAPE[1:], 128)),
    "custom": of(torch.arange(NUMEL).view(SHAPE) % 1000 - 1),
    "weights": lambda weight: Elements("w", weight),
    "weights, first dimension": lambda weight: Elements("w", weight, 0, 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_besides_the_result_no_more_than_one_copy_of_the_parameter(kind, dtype):
    weight = nn.Parameter(torch.ones(SHAPE, dtype=dtype))
    member = KINDS[kind](weight)
    count = member.stop
    groups = Groups((member,), (Layer("w", "custom", 0, count),))
    factors = torch.full((count,), 0.5, dtype=torch.float64)
    copy, result = NUMEL * weight.element_size(), count * factors.element_size()
    assert peak(groups.norms) <= result + copy
    assert peak(groups.alive) <= result + count + copy
    assert peak(lambda: groups.scale_(factors)) <= copy
    kept = member.ids.expand(member.shape or SHAPE).reshape(SHAPE) < 0
    assert torch.equal(weight.detach(), torch.where(kept, 1.0, 0.5).to(dtype))
