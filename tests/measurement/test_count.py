"""Parameters, bytes and FLOPs against figures worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur.measurement import count_bytes, count_flops, count_params


class Tied(nn.Module):
    """A language model's head that shares the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


class Call(nn.Module):
    """A module that computes one function of its inputs."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def test_tied_weights_count_once():
    model = Tied()
    assert count_params(model) == 10 * 4 + 10
    assert count_bytes(model) == 4 * (10 * 4 + 10)


def test_a_weight_tied_by_a_view_of_its_memory_counts_once():
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 4, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.detach().t())
    assert count_params(model) == 24
    assert count_bytes(model) == 96


def test_halves_of_one_memory_are_two_parameters():
    memory = torch.zeros(8)
    model = nn.ParameterList([nn.Parameter(memory[:4]), nn.Parameter(memory[4:])])
    assert count_params(model) == 8


def test_buffers_count_as_bytes_and_not_as_parameters():
    model = nn.BatchNorm2d(5)
    assert count_params(model) == 10
    assert count_bytes(model) == 4 * (5 + 5 + 5 + 5) + 8  # the counter of batches is an int64


def test_bytes_follow_the_dtype():
    assert count_bytes(nn.Linear(3, 2).bfloat16()) == 16


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_sparse_weight_counts_what_it_stores():
    dense = torch.zeros(4, 4)
    dense[0, 1] = dense[2, 3] = 1.0
    csr = nn.ParameterList([nn.Parameter(dense.to_sparse_csr())])
    coo = nn.ParameterList([nn.Parameter(dense.to_sparse_coo())])
    assert count_params(csr) == count_params(coo) == 2
    assert count_bytes(csr) == 2 * 4 + 2 * 8 + 5 * 8  # values, columns, row pointers
    assert count_bytes(coo) == 2 * 4 + 2 * 2 * 8  # values, positions


@pytest.mark.parametrize(
    ("model", "shape", "flops"),
    [
        (nn.Linear(8, 3), (5, 8), 2 * 5 * 8 * 3),
        (nn.Linear(8, 3), (8,), 2 * 8 * 3),
        (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 7, 7), 2 * 2 * 49 * 6 * 4 * 9),
        (nn.Conv2d(8, 8, 3, groups=4), (1, 8, 8, 8), 2 * 36 * 8 * 2 * 9),
        (nn.ConvTranspose2d(8, 6, 3, groups=2, stride=2), (1, 8, 8, 8), 2 * 64 * 8 * 3 * 9),
        (nn.LSTM(8, 16), (3, 1, 8), 3 * 2 * 4 * 16 * (8 + 16)),
        (nn.GRU(8, 16), (3, 1, 8), 3 * 2 * 3 * 16 * (8 + 16)),
        (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), (9, 4), 0),
        (Call(lambda x: x @ x[0]), (3, 8), 2 * 3 * 8),
        (Call(lambda x: torch.dot(x, x)), (8,), 2 * 8),
        (Call(lambda x: torch.addmv(x[:, 0], x, x[0])), (8, 8), 2 * 8 * 8),
    ],
)
def test_flops_of_one_operator(model, shape, flops):
    assert count_flops(model, torch.randn(shape)) == flops


def test_flops_of_a_bilinear_layer():
    model = nn.Bilinear(8, 16, 4)
    expected = 2 * 3 * 8 * 4 * 16 + 2 * 3 * 4 * 16
    assert count_flops(model, (torch.randn(3, 8), torch.randn(3, 16))) == expected


def test_flops_of_attention_are_two_products_whatever_the_kernel():
    query, key = torch.randn(2, 8, 5, 16), torch.randn(2, 8, 7, 16)
    expected = 2 * (2 * 2 * 8 * 5 * 7 * 16)
    assert count_flops(Call(F.scaled_dot_product_attention), (query, key, key)) == expected


def test_flops_of_a_transformer_layer_hide_nothing_in_the_fused_path():
    tokens, width, hidden, heads = 5, 64, 128, 4
    model = nn.TransformerEncoderLayer(width, heads, hidden, batch_first=True)
    projections = 2 * tokens * width * (3 * width + width)
    attention = 2 * 2 * tokens * tokens * width
    feed_forward = 2 * 2 * tokens * width * hidden
    assert count_flops(model, torch.randn(1, tokens, width)) == (
        projections + attention + feed_forward
    )
    assert torch.backends.mha.get_fastpath_enabled()


def test_flops_are_proportional_to_the_batch():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 5))
    one = count_flops(model, torch.randn(1, 3, 8, 8))
    assert count_flops(model, torch.randn(4, 3, 8, 8)) == 4 * one


def test_flops_on_the_meta_device():
    with torch.device("meta"):
        model, example = nn.Linear(8, 3), torch.empty(5, 8)
    assert count_flops(model, example) == 240
    assert count_bytes(model) == 4 * 27


def test_a_parameter_may_be_given_to_a_module_and_still_asks_for_gradients():
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.ones(4, 3))
            self.project = nn.Linear(3, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.project(self.positions)

    model = Positions()
    assert count_flops(model, torch.zeros(4, 2)) == 2 * 4 * 3 * 2
    assert all(parameter.requires_grad for parameter in model.parameters())
