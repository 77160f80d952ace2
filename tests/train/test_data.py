"""What a user's data function may return, and what batches may look like."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from secateur.train.data import Data, accuracy, cross_entropy, logits
from secateur.utils.batches import call, split

BATCHES = [(torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))]


def test_a_pair_or_an_object_will_do():
    assert Data.of((BATCHES, BATCHES)).loss is cross_entropy

    def bits(output, target):
        return cross_entropy(output, target) / 0.693

    found = Data.of(SimpleNamespace(train_loader=BATCHES, test_loader=BATCHES, metric=bits))
    assert found.metric_name == "bits" and found.loss is cross_entropy


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((BATCHES,), "got a tuple of 1"),
        (3, "got a int"),
        ((iter(BATCHES), BATCHES), "has no length or is empty"),
        (([], BATCHES), "has no length or is empty"),
    ],
)
def test_anything_else_is_refused(found, words):
    with pytest.raises(TypeError, match=words):
        Data.of(found)


def test_the_example_is_one_row_of_every_batched_input():
    batch = (torch.randn(4, 3), torch.arange(4), torch.ones(7), torch.zeros(4))
    rows, numbers, shared = Data([batch], [batch]).example()
    assert rows.shape == (1, 3) and numbers.shape == (1,) and shared.shape == (7,)


def test_mappings_call_the_model_by_keyword():
    class Model(nn.Module):
        def forward(self, ids, mask):
            return SimpleNamespace(logits=ids.float() * mask)

    batch = {"ids": torch.eye(3), "mask": torch.ones(3, 3), "labels": torch.arange(3)}
    inputs, target = split(batch)
    output = call(Model(), inputs)
    assert accuracy(output, target) == 1.0
    assert cross_entropy(output, target) < 0.6


def test_a_batch_without_target_is_refused():
    with pytest.raises(TypeError, match="'labels'; got a dict with ids"):
        split({"ids": torch.eye(3)})
    with pytest.raises(TypeError, match="got a Tensor"):
        split(torch.eye(3))


def test_an_output_without_logits_is_refused():
    with pytest.raises(TypeError, match="without logits; let the data function return"):
        logits(SimpleNamespace(score=1))
