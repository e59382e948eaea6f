"""torchvision's data sets, from small files in their own formats; nothing is downloaded."""

import pickle
import struct
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from scipy.io import savemat

from nas_cli.datasets.downloads import Download
from nas_cli.errors import DataError


def refuse_connection(*_: object, **__: object) -> None:
    raise urllib.error.URLError("no route to host")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "svhn"])
def test_absent_files_are_told_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as caught:
        Download(name=name, root=str(tmp_path)).load()  # type: ignore[arg-type]
    message = str(caught.value)
    assert f"dataset={name}: the files are not in {tmp_path}" in message
    assert "dataset.download=true" in message
    assert "dataset=npz dataset.path=" in message


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist", "svhn"])
def test_a_failed_download_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("urllib.request.urlopen", refuse_connection)
    with pytest.raises(DataError, match=rf"dataset={name}: downloading to .* failed"):
        Download(name=name, root=str(tmp_path), download=True).load()  # type: ignore[arg-type]


def test_fashion_mnist_is_grey_and_28_pixels_wide(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        images, labels = np.full((20, 28, 28), 7, np.uint8), np.arange(20, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, 20, 28, 28) + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, 20) + labels.tobytes())
    data = Download(name="fashion_mnist", root=str(tmp_path), limit=10).load()
    assert (data.info.channels, data.info.size, data.info.mirror) == (1, 28, True)
    assert data.info.class_names[9] == "Ankle boot"
    assert (len(data.train), len(data.test)) == (10, 20)


def test_cifar_is_read_channels_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "_check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    rows = np.repeat(np.array([[10, 20, 30]], np.uint8), 1024, axis=1).repeat(10, axis=0)
    for name, _ in kind.train_list + kind.test_list:
        (folder / name).write_bytes(pickle.dumps({"data": rows, "labels": list(range(10))}))
    names = {"label_names": [f"class{k}" for k in range(10)]}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(names))
    data = Download(name="cifar10", root=str(tmp_path)).load()
    assert (len(data.train), len(data.test), data.info.size) == (50, 10, 32)
    assert data.train.read(torch.tensor([0]))[0][0, :, 5, 5].tolist() == [10, 20, 30]
    assert data.info.class_names[1] == "class1"


def test_svhn_is_not_mirrored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    for part in ("train", "test"):
        pixels = np.zeros((32, 32, 3, 10), np.uint8)
        pixels[:, :, 2] = 9
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": np.arange(1, 11)[:, None]})
    data = Download(name="svhn", root=str(tmp_path)).load()
    assert data.test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert data.test.read(torch.tensor([0]))[0][0, :, 0, 0].tolist() == [0, 0, 9]
    assert not data.info.mirror


@pytest.mark.parametrize(
    ("name", "channels", "size", "num_classes"),
    [("cifar10", 3, 32, 10), ("cifar100", 3, 32, 100), ("fashion_mnist", 1, 28, 10), ("svhn", 3, 32, 10)],
)
def test_its_shape_is_known_without_the_files(
    name: str, channels: int, size: int, num_classes: int, tmp_path: Path
) -> None:
    info = Download(name=name, root=str(tmp_path)).describe()  # type: ignore[arg-type]
    assert (info.channels, info.size, info.num_classes) == (channels, size, num_classes)
