"""n of m: blocks of consecutive inputs of one output."""

from __future__ import annotations

import pytest
from torch import nn

import secateur as sc


@pytest.mark.parametrize(
    ("layer", "dim"),
    [
        (nn.Linear(8, 3), 1),
        (nn.Conv2d(8, 3, 2), 1),
        (nn.ConvTranspose2d(8, 3, 2), 0),
        (nn.Conv1d(10, 3, 3), 1),
    ],
)
def test_a_block_is_m_consecutive_inputs_of_one_output(layer, dim):
    groups = sc.n_of_m(layer, 2, 4)
    assert len(groups) == layer.weight.numel() // layer.weight.shape[dim] * 8
    assert groups.layers[0].blocks == (2, 4) and groups.layers[0].kind == "2_of_4"
    ids = groups.members[0].ids.movedim(dim, -1)
    blocks = ids[..., :8].unflatten(-1, (2, 4)) // 4
    assert (blocks == blocks[..., :1]).all()  # one block number inside a block
    assert len(blocks[..., 0].unique()) * 4 == len(groups)
    assert (ids[..., 8:] == -1).all()


def test_layers_without_m_inputs_and_embeddings_are_told():
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 3), nn.Linear(3, 2))
    groups = sc.n_of_m(model)
    assert [layer.name for layer in groups.layers] == ["1"]
    assert [reason for *_, reason in groups.refused] == [
        "an embedding has no inputs", "it has 3 inputs, fewer than 4",
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "m"), [(0, 4), (4, 4), (5, 4), (1.0, 2)])
def test_bad_levels_are_refused(n, m):
    with pytest.raises(ValueError, match="1 <= n < m"):
        sc.n_of_m(nn.Linear(8, 2), n, m)
