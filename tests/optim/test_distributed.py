"""Training that is split over processes ends like training in one, or with an error."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed as dist

import secateur as sc

if not (dist.is_available() and dist.is_gloo_available()):
    pytest.skip("torch has no gloo here", allow_module_level=True)

from optim import split
from optim.ranks import RankError, Ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),  # one without a launcher
]


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    """Two processes, for all tests of this file."""
    pool = Ranks(2)
    yield pool
    pool.stop()


@functools.cache
def residual_alone(name: str) -> Any:
    model = split.Residual()
    groups = split.grouped(model) + split.on_norm(model)
    optimizer = split.proximal(model, groups, name, budget=sc.Budget(groups=11))
    return split.outcome(model, optimizer, split.train(model, optimizer))


def assert_same(found: Any, expected: Any, steps: slice = slice(None)) -> None:
    """Equal supports, and numbers that are equal to rounding."""
    assert found["losses"] == pytest.approx(expected["losses"][steps], rel=1e-9)
    assert torch.equal(found["alive"], expected["alive"])
    assert (found["kept"], found["frozen"]) == (expected["kept"], expected["frozen"])
    assert found["spent"] == pytest.approx(expected["spent"], rel=1e-9)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=1e-8, atol=1e-10)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "curvature": {"importance": "curvature"},
    "envelope": {"penalty": "envelope", "lam": 0.05},
    "two budgets": {"budget": [sc.Budget(params=0.7), sc.Budget(params=0.4)]},
    "optimizer's geometry": {"geometry": "optimizer"},
}


# -- one process's result --------------------------------------------------------------------------


@pytest.mark.parametrize("name", split.OPTIMIZERS)
def test_ddp_ends_like_one_process_without_communication(ranks: Ranks, name: str) -> None:
    found = ranks(split.ddp, name)
    for one in found:
        assert_same(one, split.alone(name))
    for key, value in found[0]["weights"].items():
        assert torch.equal(value, found[1]["weights"][key])  # bit for bit


@pytest.mark.parametrize("kind", ["curvature", "optimizer's geometry"])
def test_ddp_weights_of_gradients_are_alike(ranks: Ranks, kind: str) -> None:
    found = ranks(split.ddp, "AdamW", **OPTIONS[kind])
    for one in found:
        assert_same(one, split.alone("AdamW", **OPTIONS[kind]))
    assert all(
        torch.equal(value, found[1]["weights"][key]) for key, value in found[0]["weights"].items()
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("SGD", "plain"), ("momentum", "plain"), *(("AdamW", kind) for kind in OPTIONS)],
)
def test_fsdp_ends_like_one_process(ranks: Ranks, name: str, kind: str) -> None:
    expected = split.alone(name, **OPTIONS[kind])
    for one in ranks(split.fsdp, name, **OPTIONS[kind]):
        assert_same(one, expected)


def test_wrapped_layers_are_known_by_their_own_names(ranks: Ranks) -> None:
    expected = split.alone()
    for one in ranks(split.fsdp_of_wrapped_layers):
        assert one["losses"] == pytest.approx(expected["losses"], rel=1e-9)
        assert torch.equal(one["alive"], expected["alive"])
        assert one["weights"] == expected["weights"].keys()


def test_stationarity_is_of_the_whole_model(ranks: Ranks) -> None:
    model, optimizer = split.plain("AdamW")
    split.train(model, optimizer)
    expected = split.stationarity(model, optimizer)
    for one in ranks(split.fsdp, "AdamW"):
        assert one["stationarity"] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("sequence", [False, True], ids=["", "sequence"])
@pytest.mark.parametrize("name", ["AdamW", "momentum"])
def test_tensor_parallel_ends_like_one_process(ranks: Ranks, name: str, sequence: bool) -> None:
    for one in ranks(split.tensor_parallel, name, sequence):
        assert_same(one, residual_alone(name))
        kinds = one["kinds"]
        assert "Shard(dim=0)" in kinds["up.weight"] and "Shard(dim=1)" in kinds["down.weight"]
        assert "Replicate" in kinds["norm.weight"] if sequence else kinds["norm.weight"] == "plain"


def test_fsdp_over_tensor_parallel_ends_like_one_process() -> None:
    four = Ranks(4)
    try:
        for one in four(split.in_two_ways, "AdamW"):
            assert_same(one, residual_alone("AdamW"))
    finally:
        four.stop()


# -- groups ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [0, 1, None], ids=["rows", "columns", "copies"])
def test_every_kind_of_groups_may_be_split(ranks: Ranks, dim: int | None) -> None:
    expected = split.kinds_alone()
    empty = 0
    for one in ranks(split.kinds_when_split, dim):
        assert one.keys() == expected.keys()
        for kind, found in one.items():
            torch.testing.assert_close(found["values"], expected[kind], rtol=1e-12, atol=0)
            empty += found["empty"]
    assert bool(empty) == (dim is not None)  # some processes hold nothing of some parameters


def test_groups_of_the_model_before_it_was_split_are_refused(ranks: Ranks) -> None:
    for message in ranks(split.forgotten):
        assert "groups = groups.on(model)" in message


# -- communication ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("importance", "most"), [(1.0, 2), ("auto", 4)])
def test_a_step_sends_a_number_a_group(ranks: Ranks, importance: Any, most: int) -> None:
    for steps in ranks(split.sent_by_steps, importance):
        *usual, choice = sorted(sum(sent.values()) for sent in steps)
        assert max(usual) <= most and choice <= most + 1  # whether any has seen a gradient
        for sent in steps:
            assert set(sent) == {"c10d.allreduce_"}  # nothing is gathered


# -- failures --------------------------------------------------------------------------------------


def test_a_bad_gradient_on_one_rank_stops_all(ranks: Ranks) -> None:
    (there, untouched), (here, too) = ranks(split.bad_gradient_on_one_rank)
    assert "step 3: NaN or inf in the gradient of 2.bias" in here
    assert "a part that another process holds" in there
    assert untouched and too


@pytest.mark.parametrize("way", ["fsdp", "ddp"])
def test_a_killed_rank_ends_the_other(way: str) -> None:
    pair = Ranks(2, patience=5)
    try:
        with pytest.raises(RankError) as caught:
            pair(split.killed, way, limit=40)
    finally:
        pair.stop()
    assert caught.value.ends[1] == "died"
    assert "Error" in caught.value.ends[0]


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [6, 16], ids=["before the freeze", "after it"])
@pytest.mark.parametrize("name", split.OPTIMIZERS)
def test_a_checkpoint_of_two_ranks_goes_on_in_one(
    ranks: Ranks, name: str, steps: int, tmp_path: Any
) -> None:
    losses, _ = ranks(split.train_and_save, str(tmp_path / "saved"), name, steps)
    expected = split.alone(name)
    assert losses == pytest.approx(expected["losses"][:steps], rel=1e-9)
    found = split.resume(0, 1, str(tmp_path / "saved"), name, steps)
    assert_same(found, expected, slice(steps, None))


@pytest.mark.parametrize("steps", [6, 16], ids=["before the freeze", "after it"])
@pytest.mark.parametrize("name", split.OPTIMIZERS)
def test_a_checkpoint_of_one_process_goes_on_in_two(
    ranks: Ranks, name: str, steps: int, tmp_path: Any
) -> None:
    split.train_and_save(0, 1, str(tmp_path / "saved"), name, steps)
    for found in ranks(split.resume, str(tmp_path / "saved"), name, steps):
        assert_same(found, split.alone(name), slice(steps, None))


@pytest.mark.parametrize("kind", ["curvature", "two budgets"])
def test_a_checkpoint_holds_all_that_was_learned(ranks: Ranks, kind: str, tmp_path: Any) -> None:
    options = OPTIONS[kind]
    folder = str(tmp_path / "saved")
    ranks(split.train_and_save, folder, "AdamW", 12, **options)
    for found in ranks(split.resume, folder, "AdamW", 12, **options):
        assert_same(found, split.alone("AdamW", **options), slice(12, None))


@pytest.mark.parametrize("steps", [6, 16], ids=["before the freeze", "after it"])
def test_a_full_state_dict_goes_to_all_ranks(ranks: Ranks, steps: int) -> None:
    for found in ranks(split.full_state, "AdamW", steps):
        assert_same(found, split.alone("AdamW"))


def test_rank_0_shrinks_the_gathered_model(ranks: Ranks) -> None:
    (refusal, small, outputs), (same, entries) = ranks(split.shrunk_on_rank_0, "AdamW")
    assert entries == 0  # what is gathered is on rank 0 only
    for text in (refusal, same):
        assert "full state dict" in text
    model, optimizer = split.plain("AdamW")
    split.train(model, optimizer)
    expected = sc.shrink(model, optimizer.groups)
    assert small == str(expected)
    torch.testing.assert_close(outputs, expected(split.batch(0)[0]), rtol=1e-8, atol=1e-10)


# -- running averages ------------------------------------------------------------------------------


def test_ddp_hands_the_first_process_s_averages_round(ranks: Ranks) -> None:
    """The others' are its own but for the last step, whatever they saw."""
    first, second = ranks(split.averages, broadcast=True)
    torch.testing.assert_close(first["found"], first["plain"])
    torch.testing.assert_close(second["found"], first["found"], rtol=0.02, atol=0.02)
    for one in ranks(split.averages, broadcast=False):
        torch.testing.assert_close(one["found"], one["plain"])
