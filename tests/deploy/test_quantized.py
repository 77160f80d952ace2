"""The exported file is a plain one: ONNX Runtime's quantization takes it on."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.deploy import run

quantization = pytest.importorskip("onnxruntime.quantization")
pytest.importorskip("onnxscript")

TRAINING, STEPS = 1500, 150


class Calibration(quantization.CalibrationDataReader):
    """One image after the other."""

    def __init__(self, images: Tensor) -> None:
        self.rows = iter([{"input": image[None].numpy()} for image in images])

    def get_next(self):
        return next(self.rows, None)


def test_a_small_network_in_int8_is_right_as_often(tmp_path):
    pixels, classes = load_digits(return_X_y=True)
    images = torch.tensor(pixels / 16).float().view(-1, 1, 8, 8)
    labels = torch.tensor(classes)
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 10)),
    )
    groups = sc.filters(model, images[:1])
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    optimizer = sc.Proximal(sgd, groups, sc.Budget(flops=0.5), steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(TRAINING, (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimizer.step()
    small = sc.shrink(model, groups).eval()
    path = sc.export(small, images[:1], tmp_path / "small.onnx")
    quantization.quantize_static(path, tmp_path / "int8.onnx", Calibration(images[:100]))

    def right(logits: Tensor) -> float:
        return (logits.argmax(1) == labels[TRAINING:]).float().mean().item()

    (found,) = run(tmp_path / "int8.onnx", images[TRAINING:])
    wanted = right(small(images[TRAINING:]))
    assert wanted > 0.8
    assert right(found) > wanted - 0.03
