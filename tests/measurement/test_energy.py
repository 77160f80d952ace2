"""Energy from counters in a folder laid out like the kernel's, and none where there is none."""

import pytest
import torch
from torch import nn

from secateur.measurement import measure_energy
from secateur.measurement.energy import find_counter

CPU = torch.device("cpu")


def write_domain(root, folder, name, microjoules, limit=1_000_000):
    domain = root / folder
    domain.mkdir(exist_ok=True)
    (domain / "name").write_text(f"{name}\n")
    (domain / "energy_uj").write_text(f"{microjoules}\n")
    (domain / "max_energy_range_uj").write_text(f"{limit}\n")
    return domain


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    first = write_domain(tmp_path, "intel-rapl:0", "package-0", 100)
    second = write_domain(tmp_path, "intel-rapl:1", "package-1", 200)
    part = write_domain(tmp_path, "intel-rapl:0:0", "core", 50)
    whole = write_domain(tmp_path, "intel-rapl:2", "psys", 500)
    counter = find_counter(CPU, tmp_path)
    assert counter is not None
    for domain, now in ((first, 1100), (second, 2200), (part, 900), (whole, 9000)):
        (domain / "energy_uj").write_text(str(now))
    assert counter() == pytest.approx((1000 + 2000) / 1e6)


def test_a_counter_that_wraps_goes_on(tmp_path):
    domain = write_domain(tmp_path, "intel-rapl:0", "package-0", 999_999)
    counter = find_counter(CPU, tmp_path)
    assert counter is not None
    (domain / "energy_uj").write_text("9")
    assert counter() == pytest.approx(11 / 1e6)  # up to the limit, to zero, and nine more


def test_joules_are_for_one_forward(tmp_path):
    domain = write_domain(tmp_path, "intel-rapl:0", "package-0", 0)
    used = 0

    class Hungry(nn.Module):
        def forward(self, x):
            nonlocal used
            used += 3000
            (domain / "energy_uj").write_text(str(used))
            return x

    joules = measure_energy(Hungry(), torch.zeros(1), seconds=0.01, powercap=tmp_path)
    assert joules == pytest.approx(3000 / 1e6)


def test_without_a_counter_there_is_no_figure(tmp_path):
    assert measure_energy(nn.Linear(2, 2), torch.zeros(1, 2), powercap=tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    (tmp_path / "intel-rapl:0" / "name").write_text("package-0")
    assert find_counter(CPU, tmp_path) is None
