"""Planes of labels: compressing, tying, straightening."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import nn

from secateur.tracing.labels import NO_GROUP, Labels, components, compress, varied


def test_every_index_of_every_dimension_has_its_own_atom():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    labels = Labels.of(model)
    first, bias, second, _ = labels.tracked
    assert first.atoms(0).tolist() == [0, 1] and first.atoms(1).tolist() == [2, 3, 4]
    assert bias.atoms(0).tolist() == [5, 6]
    assert second.atoms(0).tolist() == [-1]  # nothing to choose from
    assert second.atoms(1).tolist() == [7, 8]
    assert labels.atom_count == 9
    assert [varied(plane) for plane in labels.planes(model[0].weight)] == [(0,), (1,)]


def test_shared_parameters_are_tracked_once_under_all_their_names():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert [item.names for item in Labels.of(model).tracked] == [
        ("0.weight", "1.weight"), ("0.bias",), ("1.bias",),
    ]  # fmt: skip


def test_compress_keeps_what_varies():
    plane = torch.arange(6).reshape(1, 6, 1).expand(4, 6, 5)
    assert compress(plane).shape == (1, 6, 1)
    assert compress(torch.full((3, 4), 7)).shape == (1, 1)
    assert varied(compress(torch.arange(12).reshape(3, 4))) == (0, 1)


def empty() -> Labels:
    return Labels([], 100)


def test_a_tie_is_entry_by_entry_and_once():
    labels = empty()
    labels.tie(torch.tensor([[1, 2]]), torch.tensor([[5, 6], [5, 7]]))
    a, b = labels.ties[0]
    assert sorted(zip(a.tolist(), b.tolist(), strict=True)) == [(1, 5), (2, 6), (2, 7)]
    labels.tie(torch.tensor([3]), torch.tensor([3]))  # with itself: nothing to say
    assert len(labels.ties) == 1


def test_an_atom_opposite_to_none_is_protected():
    labels = empty()
    labels.tie(torch.tensor([1, -1, 3]), torch.tensor([4, 5, -1]))
    reasons = {reason for _, reason in labels.protected}
    atoms = np.concatenate([atoms for atoms, _ in labels.protected])
    assert reasons == {NO_GROUP} and sorted(atoms.tolist()) == [3, 5]


def test_straighten_ties_across_the_other_dimensions():
    labels = empty()
    line = labels.straighten(torch.arange(6).reshape(2, 3), [1])
    assert line.tolist() == [[0, 1, 2]]
    pairs = {tuple(sorted(p)) for a, b in labels.ties for p in zip(a.tolist(), b.tolist())}  # noqa: B905
    assert pairs == {(0, 3), (1, 4), (2, 5)}


def test_memory_that_is_shared_is_found():
    labels = empty()
    base = torch.zeros(4, 4)
    view, apart = base[:2], torch.zeros(4, 4)
    for tensor in (base, view, apart):
        labels.put(tensor, [], is_data=True)
    assert [other is base for other in labels.sharing(view)] == [True]


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(1, 60),
    pairs=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=90),
    pieces=st.integers(1, 3),
)
def test_components_are_those_of_scipy(count: int, pairs: list, pieces: int) -> None:
    both = np.array(pairs, np.int64).reshape(-1, 2) % count
    ties = [(part[:, 0], part[:, 1]) for part in np.array_split(both, pieces)]
    graph = coo_matrix((np.ones(len(both)), (both[:, 0], both[:, 1])), shape=(count, count))
    expected = connected_components(graph, directed=False)[1]
    assert components(count, ties).tolist() == expected.tolist()
    assert components(count, []).tolist() == list(range(count))


def test_training_to_a_budget_does_not_wait_for_scipy_s_import():
    words = """
import sys, torch, secateur as sc
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
groups = sc.neurons(model, torch.ones(1, 4))
sgd = torch.optim.SGD(model.parameters(), lr=0.1)
optimizer = sc.Proximal(sgd, groups, sc.Budget(params=0.5, per_layer=True), steps=2)
for _ in range(2):
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
assert "scipy" not in sys.modules, [name for name in sys.modules if "scipy" in name][:3]
"""
    subprocess.run([sys.executable, "-c", words], check=True)
