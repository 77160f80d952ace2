"""Small real networks that go to ONNX: functions that return a model and an example."""

import torch
from torch import nn


class Residual(nn.Module):
    """Two convolutions with batch norm beside a shortcut."""

    def __init__(self, width=6):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Dropout(),
        )
        self.up = nn.ConvTranspose2d(width, 4, 2, stride=2)

    def forward(self, x):
        x = self.stem(x)
        return self.up(torch.relu(x + self.branch(x)))


class Classifier(nn.Module):
    """Token ids and a padding mask in, logits and the pooled state out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens, mask):
        hidden = self.encoder(self.embedding(tokens), src_key_padding_mask=mask)
        pooled = hidden.mean(1)
        return {"logits": self.head(pooled), "pooled": pooled}


class Last(nn.Module):
    """The output of the last step of a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 7, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


def cnn():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 9, 10)), torch.randn(1, 3, 8, 8)


def mlp():
    return nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 2)), torch.randn(3, 6)


def residual():
    return Residual(), torch.randn(2, 3, 8, 8)


def transformer():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), torch.randn(1, 5, 16)


def classifier():
    tokens = torch.randint(20, (2, 7))
    return Classifier(), (tokens, torch.tensor([[False] * 7, [False] * 4 + [True] * 3]))


def recurrent():
    return Last(), torch.randn(2, 4, 5)


MODELS = [cnn, mlp, residual, transformer, classifier, recurrent]
