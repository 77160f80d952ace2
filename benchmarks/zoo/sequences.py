"""Networks for signals, volumes and sequences without attention."""

from __future__ import annotations

from torch import Tensor, nn

from zoo.entry import entry, random, tokens


@entry("ConvNet 1-d", random(2, 4, 64))
def convnet1d() -> nn.Module:
    """A classifier of signals, with dilated convolutions."""
    return nn.Sequential(
        nn.Conv1d(4, 16, 7, padding=3), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(16, 32, 5, padding=4, dilation=2), nn.BatchNorm1d(32), nn.GELU(),
        nn.Conv1d(32, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ELU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(32, 6),
    )  # fmt: skip


@entry("ConvNet 3-d", random(2, 1, 8, 16, 16))
def convnet3d() -> nn.Module:
    """A classifier of volumes."""
    return nn.Sequential(
        nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 16, 3, padding=1), nn.InstanceNorm3d(16, affine=True), nn.LeakyReLU(),
        nn.Conv3d(16, 16, 3, padding=1), nn.PReLU(16), nn.AdaptiveAvgPool3d(1),
        nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


class Tagger(nn.Module):
    """Embeds words, runs a recurrent network both ways, and names each word."""

    def __init__(self, recurrent: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.project = nn.Linear(24, 32)
        self.recurrent = recurrent(32, 32, 2, batch_first=True, bidirectional=True)
        self.hidden = nn.Linear(64, 64)
        self.head = nn.Linear(64, 7)

    def forward(self, words: Tensor) -> Tensor:
        x, _ = self.recurrent(self.project(self.embed(words)).relu())
        return self.head(self.hidden(x).relu())


@entry("LSTM tagger", tokens(2, 9))
def lstm_tagger() -> nn.Module:
    return Tagger(nn.LSTM)


@entry("GRU tagger", tokens(2, 9))
def gru_tagger() -> nn.Module:
    return Tagger(nn.GRU)
