"""Images in one .npz file, in both layouts, and each way such a file can be wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import ArrayLike

from nas_cli.datasets.npz import Npz
from nas_cli.errors import DataError

SHARED = Path(os.environ.get("NAS_DATA", Path(__file__).parents[3] / "shared" / "data"))


def keras_arrays(
    num_train: int = 12, num_test: int = 6, shape: tuple[int, ...] = (8, 8, 3)
) -> dict[str, ArrayLike]:
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (num_train, *shape), dtype=np.uint8),
        "y_train": np.arange(num_train) % 3,
        "x_test": rng.integers(0, 256, (num_test, *shape), dtype=np.uint8),
        "y_test": np.arange(num_test) % 3,
    }


def medmnist_arrays() -> dict[str, ArrayLike]:
    rng = np.random.default_rng(0)
    sizes = {"train": 6, "val": 4, "test": 2}
    images = {
        f"{part}_images": rng.integers(0, 256, (num, 28, 28), dtype=np.uint8) for part, num in sizes.items()
    }
    labels = {f"{part}_labels": (np.arange(num) % 2)[:, None] for part, num in sizes.items()}
    return {**images, **labels}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "images.npz"


def refusal(path: Path, arrays: dict[str, ArrayLike], limit: int | None = None) -> str:
    np.savez(path, allow_pickle=True, **arrays)
    with pytest.raises(DataError) as caught:
        Npz(path=str(path), limit=limit).load()
    message = str(caught.value)
    assert message.startswith(f"dataset.path={path}")
    return message.removeprefix(f"dataset.path={path}")


def test_a_shrunk_image_holds_the_mean_of_each_area(path: Path) -> None:
    arrays = keras_arrays(shape=(16, 16, 1))
    image = np.full((16, 16, 1), 100, dtype=np.uint8)
    image[:2, :2, 0] = [[10, 20], [30, 41]]
    arrays["x_train"] = np.stack([image] * 12)
    np.savez(path, allow_pickle=True, **arrays)
    data = Npz(path=str(path), size=8).load()
    assert data.info.size == 8
    pixels, _ = data.train.read(torch.tensor([0]))
    assert pixels[0, 0, 0].tolist() == [25, 100, 100, 100, 100, 100, 100, 100]


def test_images_are_not_made_larger(path: Path) -> None:
    np.savez(path, allow_pickle=True, **keras_arrays())
    with pytest.raises(DataError, match=r"dataset\.size=16 is more than the images' 8 pixels"):
        Npz(path=str(path), size=16).load()


def test_cifar10_loads_as_it_is() -> None:
    file = SHARED / "cifar10_20k.npz"
    if not file.is_file():
        pytest.skip(f"{file} is absent; NAS_DATA names the folder that has it")
    data = Npz(path=str(file)).load()
    assert (len(data.train), len(data.test)) == (20_000, 4_000)
    assert (data.info.channels, data.info.size, data.info.mirror) == (3, 32, True)
    assert data.info.class_names[:3] == ("airplane", "automobile", "bird")
    assert data.info.mean == pytest.approx((0.4928, 0.4828, 0.4471), abs=1e-4)
    assert data.info.std == pytest.approx((0.2475, 0.2442, 0.2620), abs=1e-4)
    with np.load(file) as arrays:
        pixels, labels = data.train.read(torch.tensor([7]))
        assert pixels[0].permute(1, 2, 0).numpy().tolist() == arrays["x_train"][7].tolist()
        assert labels.item() == arrays["y_train"][7]


def test_classes_without_names_are_called_by_their_labels(path: Path) -> None:
    arrays = keras_arrays()
    np.savez(
        path, allow_pickle=True, **{**arrays, "y_train": np.arange(12) % 3 * 5 - 5, "y_test": np.full(6, 5)}
    )
    data = Npz(path=str(path), mirror=False).load()
    assert data.info.class_names == ("-5", "0", "5")
    assert data.train.labels[:4].tolist() == [0, 1, 2, 0]
    assert data.test.labels.tolist() == [2] * 6
    assert not data.info.mirror


def test_a_medmnist_file_loads_grey_with_its_validation_part_in_the_training_part(path: Path) -> None:
    arrays = medmnist_arrays()
    np.savez(path, allow_pickle=True, **arrays)
    data = Npz(path=str(path)).load()
    assert (len(data.train), len(data.test)) == (10, 2)
    assert (data.info.channels, data.info.size) == (1, 28)
    last = data.train.read(torch.tensor([9]))[0]
    assert last[0, 0].tolist() == np.asarray(arrays["val_images"])[3].tolist()


def test_without_a_test_part_the_validation_part_is_it(path: Path) -> None:
    arrays = {name: array for name, array in medmnist_arrays().items() if not name.startswith("test")}
    np.savez(path, allow_pickle=True, **arrays)
    data = Npz(path=str(path)).load()
    assert (len(data.train), len(data.test)) == (6, 4)


def test_a_constant_channel_does_not_divide_by_zero(path: Path) -> None:
    arrays = keras_arrays(shape=(8, 8, 4))
    np.asarray(arrays["x_train"])[..., 3] = 255
    np.savez(path, allow_pickle=True, **arrays)
    assert Npz(path=str(path)).load().info.std[3] == 1.0


def test_a_limit_keeps_the_proportions(path: Path) -> None:
    np.savez(path, allow_pickle=True, **{**keras_arrays(), "y_train": [0] * 6 + [1] * 4 + [2] * 2})
    assert Npz(path=str(path), limit=6).load().train.labels.bincount().tolist() == [3, 2, 1]


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.npz: there is no such file"):
        Npz(path=str(path.with_name("nowhere.npz"))).load()


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    path.write_text("not an archive")
    with pytest.raises(DataError, match=r"no readable \.npz file"):
        Npz(path=str(path)).load()
    np.save(path.with_suffix(".npy"), np.zeros(3))
    with pytest.raises(DataError, match="one array without a name"):
        Npz(path=str(path.with_suffix(".npy"))).load()


@pytest.mark.parametrize(("place", "value"), [(6, 64), (8, 1), (10, 14), (10, 8), (10, 99), (20, 7), (28, 9)])
def test_a_wrong_byte_in_the_directory_is_told(path: Path, place: int, value: int) -> None:
    """Version, flags (1: there is a password), compression (14: LZMA, 8: deflate), sizes."""
    np.savez(path, allow_pickle=True, **keras_arrays())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + place] = value
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"no readable \.npz file"):
        Npz(path=str(path)).load()


def test_a_torn_file_is_refused(path: Path) -> None:
    np.savez_compressed(path, allow_pickle=True, **keras_arrays())
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"no readable \.npz file"):
        Npz(path=str(path)).load()


def test_pickled_objects_are_never_loaded(path: Path) -> None:
    arrays = {**keras_arrays(), "y_train": np.array([{}] * 12, dtype=object)}
    assert "Object arrays cannot be loaded" in refusal(path, arrays)


def test_missing_arrays_are_told_with_those_there_are(path: Path) -> None:
    arrays = keras_arrays()
    del arrays["y_test"]
    message = refusal(path, arrays)
    assert "holds x_test, x_train, y_train." in message
    assert "It needs x_train, y_train, x_test, y_test, or as in MedMNIST train_images" in message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"x_train": np.zeros((12, 8, 8, 3), np.float32)},
            "x_train holds float32 values; pixels are whole numbers",
        ),
        ({"x_test": np.full((6, 8, 8, 3), 300)}, "x_test holds pixels from 300 to 300; 0 to 255 is allowed"),
        ({"x_train": np.zeros((12, 64), np.uint8)}, "x_train has the shape (12, 64)"),
        ({"y_train": np.zeros(11, int)}, "x_train has 12 images and y_train 11 labels"),
        ({"y_train": np.zeros((12, 14), int)}, "y_train has the shape (12, 14)"),
        ({"y_train": np.zeros(12)}, "holds float64 values; one whole number an image"),
        ({"y_train": np.zeros(12, int), "y_test": np.zeros(6, int)}, "there is one class, '0'; at least 2"),
        ({"y_test": np.full(6, 9)}, "the label 9 is of none of the 3 classes (labels 0 to 2)"),
        ({"class_names": np.array(["a", "b"])}, "the label 2 is of none of the 2 classes"),
        ({"class_names": np.array(list("abcd"))}, "the class 'd' has no training image"),
        ({"class_names": np.arange(3)}, "class_names is no list of texts"),
        ({"x_test": np.zeros((6, 9, 9, 3), np.uint8)}, "training images have the shape (3, 8, 8)"),
        (
            {"x_test": np.zeros((0, 8, 8, 3), np.uint8), "y_test": np.zeros(0, int)},
            "there are no test images",
        ),
    ],
)
def test_a_wrong_array_is_told_in_a_sentence(path: Path, changed: dict[str, ArrayLike], words: str) -> None:
    assert words in refusal(path, {**keras_arrays(), **changed})


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((8, 10, 3), "images are 8 x 10 pixels (height x width); only squares"),
        ((7, 7, 3), "images are 7 x 7 pixels; 8 to 224 are supported"),
        ((225, 225, 1), "images are 225 x 225 pixels; 8 to 224 are supported"),
        ((8, 8, 5), "images have 5 channels; 1 to 4 are supported"),
    ],
)
def test_shapes_out_of_range_are_refused(path: Path, shape: tuple[int, ...], words: str) -> None:
    assert words in refusal(path, keras_arrays(shape=shape))


def test_a_limit_above_the_number_of_images_is_refused(path: Path) -> None:
    assert "dataset.limit=13 is more than the 12 training images" in refusal(path, keras_arrays(), limit=13)
