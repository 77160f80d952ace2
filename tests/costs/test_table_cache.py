"""The cache of latency tables: what it is asked for, and what it does with a damaged file."""

import json
from pathlib import Path

import pytest

from costs.cases import wide
from secateur.costs import LatencyTable
from secateur.costs import table_cache as cache

pytestmark = pytest.mark.filterwarnings("ignore:the device is busy", "ignore:the latency table of")


def test_the_cache_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path / "new"))
    groups = wide()
    first = cache.table_for(groups, runtime="torch", threads=None, multiple_of=1)
    assert len(list((tmp_path / "new" / "latency").iterdir())) == 1
    assert cache.table_for(groups, runtime="torch", threads=1, multiple_of=1) == first
    other = wide(hidden=128)
    assert cache.cache_path(other, "torch", 1, 1) != cache.cache_path(groups, "torch", 1, 1)
    assert cache.cache_path(groups, "torch", 2, 1) != cache.cache_path(groups, "torch", 1, 1)
    assert cache.cache_path(groups, "torch", 1, 8) != cache.cache_path(groups, "torch", 1, 1)


def test_a_damaged_cache_is_measured_anew(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    groups = wide()
    path = cache.cache_path(groups, "torch", 1, 1)
    path.parent.mkdir()
    path.write_text(json.dumps({"format": "garbage"}))
    with pytest.warns(RuntimeWarning, match="measuring anew: .* is not a latency table"):
        table = cache.table_for(groups, runtime="torch", threads=1, multiple_of=1)
    assert LatencyTable.load(path) == table
