"""Data sets arrive whole, verified and normalised, or not at all."""

import _thread
import gzip
import hashlib
import io
import json
import signal
import sys
import tarfile
import threading

import numpy as np
import pytest
import torch

import data


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, request):
    """No test but those of the real data sees the user's own folder or cache."""
    if "real" not in request.node.name:
        monkeypatch.delenv("SECATEUR_DATA", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(request.getfixturevalue("tmp_path") / "cache"))


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def idx_files(train=60, test=20, side=4):
    """Files of a small data set whose images are told apart by their first pixel."""
    random = np.random.default_rng(0)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        images = random.integers(0, 256, (count, side, side)).astype(np.uint8)
        images[:, 0, 0] = np.arange(count)
        files[f"{part}-images-idx3-ubyte"] = idx(images)
        files[f"{part}-labels-idx1-ubyte"] = idx((np.arange(count) % 10).astype(np.uint8))
    return files


def tgz(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def deb(path, files):
    """A Debian package: three members of an ar archive, the last of them the data."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:xz") as archive:
        for name, content in files.items():
            packed = gzip.compress(content)
            member = tarfile.TarInfo(f"./usr/share/datasets/{name}.gz")
            member.size = len(packed)
            archive.addfile(member, io.BytesIO(packed))
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": b"odd",
        "data.tar.xz": inner.getvalue(),
    }
    blob = b"!<arch>\n"
    for name, content in members.items():
        blob += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
        blob += content + b"\n" * (len(content) % 2)
    path.write_bytes(blob)
    return path


def small(archive=None):
    return data.Dataset(
        name="small",
        mean=(0.25,),
        std=(0.5,),
        largest=255,
        counts=(60, 20),
        first_labels=tuple(range(10)),
        folders=("", "inner/raw"),
        archive=archive,
    )


def archive_of(path, script, name="small.tgz"):
    """An archive that a Python script fetches; its checksum is that of an existing file."""
    content = path.read_bytes()
    command = (sys.executable, "-c", script)
    return data.Archive(name, hashlib.sha256(content).hexdigest(), len(content), command)


def copying(path):
    return f"import shutil; shutil.copy({str(path)!r}, 'came.tgz')"


def left_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_digits_are_split_and_normalised():
    images = data.digits()
    assert images.train_images.shape == (1437, 1, 8, 8)
    assert images.test_images.shape == (360, 1, 8, 8)
    assert images.train_images.dtype == torch.float32
    assert images.train_labels.dtype == torch.int64
    assert abs(images.train_images.mean().item()) < 1e-3
    assert abs(images.train_images.std().item() - 1) < 1e-3
    assert images.test_labels.unique().tolist() == list(range(10))


def test_raw_pixels_are_the_normalised_ones():
    raw, ready = data.digits(raw=True), data.digits()
    assert raw.train_images.dtype == torch.uint8
    expected = (raw.train_images / 16 - 0.3054) / 0.3755
    torch.testing.assert_close(ready.train_images, expected)


def test_idx_files_are_read_as_they_were_written():
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(data.parse_idx(idx(array), "x"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08\x00", "x: not an idx file"),
        (idx(np.zeros((2, 3), np.uint8))[:-1], r"promises \(2, 3\) bytes, but 5 follow"),
        (b"", "not an idx file"),
    ],
)
def test_a_damaged_idx_file_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        data.parse_idx(content, "x")


@pytest.mark.parametrize("write", [tgz, deb])
def test_an_archive_gives_its_files_unpacked(write, tmp_path):
    files = idx_files()
    assert data.read_archive(write(tmp_path / "archive", files)) == files


def test_a_data_set_is_fetched_once_and_then_cached(tmp_path):
    source = tgz(tmp_path / "source.tgz", idx_files())
    archive = archive_of(source, copying(source))
    first = data._load_idx(small(archive), None, raw=True)
    assert left_in(data.cache_folder()) == ["small.tgz"]
    source.unlink()
    again = data._load_idx(small(archive), None, raw=True)
    assert first.train_images[:, 0, 0, 0].tolist() == list(range(60))
    assert torch.equal(first.train_images, again.train_images)
    assert first.test_images.shape == (20, 1, 4, 4)


def test_a_download_with_another_checksum_is_refused_and_not_kept(tmp_path):
    source = tgz(tmp_path / "source.tgz", idx_files())
    archive = archive_of(source, "open('came.tgz', 'wb').write(b'something else')")
    with pytest.raises(ValueError, match="expected: " + archive.sha256):
        data.fetch(archive, tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_a_download_that_fails_leaves_nothing_and_says_why(tmp_path):
    source = tgz(tmp_path / "source.tgz", idx_files())
    script = "open('came.tgz', 'wb').write(b'half'); raise SystemExit('the line is dead')"
    with pytest.raises(RuntimeError, match=r"(?s)the line is dead.*SECATEUR_DATA"):
        data.fetch(archive_of(source, script), tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_an_interrupted_download_leaves_nothing(tmp_path):
    source = tgz(tmp_path / "source.tgz", idx_files())
    script = "import time; open('came.tgz', 'wb').write(b'half'); time.sleep(60)"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    threading.Timer(1.0, _thread.interrupt_main).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            data.fetch(archive_of(source, script), tmp_path / "cache")
    finally:
        signal.signal(signal.SIGINT, before)
    assert left_in(tmp_path / "cache") == []


def test_a_missing_tool_is_named(tmp_path):
    archive = data.Archive("small.tgz", "", 1, ("no-such-tool-here",))
    with pytest.raises(RuntimeError, match="no-such-tool-here is not installed"):
        data.fetch(archive, tmp_path / "cache")
    assert left_in(tmp_path / "cache") == []


def test_a_damaged_file_in_the_cache_is_refused(tmp_path):
    source = tgz(tmp_path / "source.tgz", idx_files())
    archive = archive_of(source, copying(source))
    data.fetch(archive, data.cache_folder())
    (data.cache_folder() / "small.tgz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="Delete it to have it fetched again"):
        data.find_archive(archive)


def test_the_users_folder_comes_before_the_cache(tmp_path, monkeypatch):
    files = idx_files()
    source = tgz(tmp_path / "source.tgz", files)
    archive = archive_of(source, "raise SystemExit('not to be fetched')")
    own = tmp_path / "own"
    own.mkdir()
    (own / "small.tgz").write_bytes(source.read_bytes())
    assert data.find_archive(archive, own) == own / "small.tgz"
    monkeypatch.setenv("SECATEUR_DATA", str(own))
    assert data.find_archive(archive) == own / "small.tgz"


@pytest.mark.parametrize("packed", [False, True])
def test_original_files_in_the_users_folder_are_taken(packed, tmp_path):
    place = tmp_path / "own" / "inner" / "raw"
    place.mkdir(parents=True)
    files = idx_files()
    for name, content in files.items():
        if packed:
            (place / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (place / name).write_bytes(content)
    assert data.local_files(small(), data.IDX_FILES, tmp_path / "own") == files
    next(place.iterdir()).unlink()
    assert data.local_files(small(), data.IDX_FILES, tmp_path / "own") == {}


def test_another_data_set_under_the_same_name_is_refused(tmp_path):
    files = idx_files(train=59)
    place = tmp_path / "own"
    place.mkdir()
    for name, content in files.items():
        (place / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"training images and labels: \(59, 59\)\n.*\(60, 60\)"):
        data._load_idx(small(), place, raw=False)
    files["train-labels-idx1-ubyte"] = idx(np.full(60, 3, np.uint8))
    files["train-images-idx3-ubyte"] = idx_files()["train-images-idx3-ubyte"]
    for name, content in files.items():
        (place / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"first training labels: \(3, 3, 3"):
        data._load_idx(small(), place, raw=False)


def test_both_forms_of_cifar_give_the_same_images():
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    pngs, binaries, labels = {}, {}, {}
    for name in names:
        pixels = random.integers(0, 256, (3, 3, 32, 32)).astype(np.uint8)
        labels[name] = random.integers(0, 10, 3).astype(np.uint8)
        rows = pixels.transpose(0, 2, 3, 1).reshape(3, 1024, 3)
        stream = io.BytesIO()
        image.fromarray(rows).save(stream, format="PNG")
        pngs[f"{name}.png"] = stream.getvalue()
        records = np.concatenate([labels[name][:, None], pixels.reshape(3, 3072)], axis=1)
        binaries[f"{name}.bin"] = records.tobytes()
    train = np.concatenate([labels[name] for name in names[:5]])
    pngs["train_lables.json"] = json.dumps(train.tolist()).encode()
    pngs["test_lables.json"] = json.dumps(labels["test_batch"].tolist()).encode()
    for one, other in zip(
        data.parse_cifar_png(pngs), data.parse_cifar_binary(binaries), strict=True
    ):
        assert np.array_equal(one, other)


REAL = {"mnist": data.MNIST, "fashion_mnist": data.FASHION_MNIST, "cifar10": data.CIFAR10}


@pytest.mark.parametrize("name", REAL)
def test_real_data_has_the_documented_mean_and_deviation(name):
    dataset = REAL[name]
    assert dataset.archive is not None
    if not (data.cache_folder() / dataset.archive.name).is_file():
        pytest.skip(f"{name} is not in the cache: python benchmarks/data.py fetches it")
    images = getattr(data, name)(raw=True)
    assert images.train_labels.bincount().float().std() < 0.06 * len(images.train_labels) / 10
    pixels = images.train_images.transpose(0, 1).flatten(1)
    values = torch.arange(256.0, dtype=torch.float64) / 255
    for channel, mean, std in zip(pixels, dataset.mean, dataset.std, strict=True):
        share = channel.bincount(minlength=256).double() / channel.numel()
        found = (share * values).sum()
        assert found.item() == pytest.approx(mean, abs=1e-4)
        deviation = ((share * values**2).sum() - found**2).sqrt()
        assert deviation.item() == pytest.approx(std, abs=1e-4)
