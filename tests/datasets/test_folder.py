"""Folders of image files: what is found by looking, what is streamed, and each way they can be wrong."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_cli.data import Augmentation, Batches, ImageData, Images
from nas_cli.datasets.folder import Folder
from nas_cli.datasets.image_files import StreamedImages, decode
from nas_cli.errors import DataError


def save(file: Path, mode: str = "RGB", width: int = 12, height: int = 10, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    has_alpha = mode in ("RGBA", "LA")
    noise = rng.integers(0, 256, (height, width, 4 if has_alpha else 3), dtype=np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).convert(mode).save(file)
    return file


def class_folders(root: Path, num_images: int = 5, mode: str = "RGB", names: str = "ab") -> Path:
    for label, name in enumerate(names):
        for k in range(num_images):
            save(root / name / f"{k}.png", mode, seed=100 * label + k)
    return root


def load(root: Path, **settings: int | float | bool) -> ImageData:
    """Without a cache, which is tested in test_image_cache.py."""
    return Folder(path=str(root), cache_gb=0, **settings).load()  # type: ignore[arg-type]


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(root)
    return str(caught.value)


# Found by looking


def test_classes_size_and_channels_are_found_by_looking(tmp_path: Path) -> None:
    data = load(class_folders(tmp_path))
    assert data.info.class_names == ("a", "b")
    assert (data.info.channels, data.info.size, data.info.mirror) == (3, 10, True)
    assert (len(data.train), len(data.test)) == (8, 2)
    assert data.test.labels.tolist() == [0, 1]
    assert isinstance(data.train, Images)
    assert data.info.mean == pytest.approx((0.5,) * 3, abs=0.03)


@pytest.mark.parametrize(
    ("mode", "channels"), [("L", 1), ("1", 1), ("P", 3), ("RGB", 3), ("RGBA", 4), ("LA", 4)]
)
def test_channels_follow_the_files(tmp_path: Path, mode: str, channels: int) -> None:
    assert load(class_folders(tmp_path, mode=mode)).info.channels == channels


def test_one_coloured_image_makes_three_channels(tmp_path: Path) -> None:
    save(class_folders(tmp_path, mode="L") / "a" / "9.png", "RGB")
    assert load(tmp_path).info.channels == 3


def test_the_default_size_is_the_median_shorter_side_within_8_and_224(tmp_path: Path) -> None:
    for name, side in (("small", 5), ("medium", 40), ("large", 300)):
        for label in "ab":
            save(tmp_path / name / label / "0.png", "L", width=side + 3, height=side)
            save(tmp_path / name / label / "1.png", "L", width=side, height=side + 3)
    sizes = [load(tmp_path / name).info.size for name in ("small", "medium", "large")]
    assert sizes == [8, 40, 224]


def test_images_are_resized_by_the_shorter_side_and_cropped_at_the_centre(tmp_path: Path) -> None:
    stripes = np.zeros((10, 30), np.uint8)
    stripes[:, 10:20] = 200
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert decode(tmp_path / "stripes.png", 1, 10).unique().tolist() == [200]
    assert decode(tmp_path / "stripes.png", 3, 20).shape == (3, 20, 20)


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 0x8040, np.uint16)).save(tmp_path / "deep.png")
    assert decode(tmp_path / "deep.png", 1, 8).unique().tolist() == [0x80]


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    values = np.zeros((8, 8), np.uint8)
    values[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # orientation: upside down
    Image.fromarray(values).save(tmp_path / "turned.png", exif=exif)
    assert decode(tmp_path / "turned.png", 1, 8)[0, :, 0].tolist() == [0] * 7 + [255]


def test_what_is_no_image_is_passed_over(tmp_path: Path) -> None:
    class_folders(tmp_path)
    (tmp_path / "a" / "notes.txt").write_text("hello")
    (tmp_path / "a" / "._0.png").write_text("a Mac's note")
    (tmp_path / "empty").mkdir()
    assert len(load(tmp_path).train) == 8


# Parts


def test_train_and_test_folders_are_the_parts(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 4)
    class_folders(tmp_path / "test", 3)
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (8, 6)


def test_a_val_folder_joins_the_training_part_or_is_the_test_part(tmp_path: Path) -> None:
    class_folders(tmp_path / "train", 4)
    class_folders(tmp_path / "val", 2)
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (8, 4)
    class_folders(tmp_path / "test", 3)
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (12, 6)


def test_the_test_part_is_the_same_each_time_and_as_large_as_asked(tmp_path: Path) -> None:
    class_folders(tmp_path, 10)
    one, other = load(tmp_path, test_fraction=0.4).test, load(tmp_path, test_fraction=0.4).test
    assert len(one) == 8
    assert torch.equal(one.read(torch.arange(8))[0], other.read(torch.arange(8))[0])


def test_a_limit_is_balanced(tmp_path: Path) -> None:
    assert load(class_folders(tmp_path, 10), limit=6).train.labels.bincount().tolist() == [3, 3]


# Streamed


def test_images_larger_than_the_memory_allowed_are_streamed_and_are_the_same(tmp_path: Path) -> None:
    class_folders(tmp_path)
    memory, streamed = load(tmp_path), load(tmp_path, memory_gb=0, num_workers=0)
    assert isinstance(streamed.train, StreamedImages)
    assert memory.info == streamed.info
    for one, other in zip(memory.split(0.5, 1), streamed.split(0.5, 1), strict=True):
        everything = torch.arange(len(one))
        assert torch.equal(one.read(everything)[0], other.read(everything)[0])
        assert torch.equal(one.read(everything)[1], other.read(everything)[1])


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    class_folders(tmp_path, 10)
    before = torch.get_rng_state()
    seen = []
    for num_workers in (0, 2):
        data = load(tmp_path, memory_gb=0, num_workers=num_workers)
        reader = Batches(
            data.train, data.info, batch_size=3, seed=5, augmentation=Augmentation(shift=1, mirror=True)
        )
        seen.append(list(reader.steps(2, 12)))
        assert torch.equal(reader.batch(7).images, seen[-1][5].images)
    for one, other in zip(*seen, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_worker_names_the_image_it_cannot_read(tmp_path: Path) -> None:
    class_folders(tmp_path)
    data = load(tmp_path, memory_gb=0, num_workers=1)
    assert isinstance(data.train, StreamedImages)
    tear(data.train.paths[0])
    with pytest.raises(DataError, match=rf"^{data.train.paths[0]} is no readable image"):
        list(data.train.read_ahead([torch.tensor([3]), torch.tensor([1, 0])]))


# Unreadable


def tear(file: Path) -> None:
    """Keep the header, lose the pixels."""
    file.write_bytes(file.read_bytes()[:120])


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_unreadable_images_are_left_out_where_asked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, memory_gb: float
) -> None:
    class_folders(tmp_path)
    (tmp_path / "a" / "8.png").write_text("no image")
    tear(save(tmp_path / "a" / "9.png"))
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path, skip_unreadable=True, memory_gb=memory_gb)
    assert len(data.train) + len(data.test) == 10
    assert "8.png, which is no readable image" in caplog.text
    assert "9.png, which is no readable image" in caplog.text


def test_an_unreadable_image_is_named_with_the_remedy(tmp_path: Path) -> None:
    file = class_folders(tmp_path) / "b" / "7.png"
    file.write_text("no image")
    assert refusal(tmp_path) == (
        f"{file} is no readable image (no known image format). Repair or remove it, or set "
        "dataset.skip_unreadable=true to go on without it."
    )


def test_a_torn_image_is_named(tmp_path: Path) -> None:
    file = save(class_folders(tmp_path) / "b" / "7.png")
    tear(file)
    assert f"{file} is no readable image" in refusal(tmp_path)


def test_nothing_but_unreadable_images_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_text("no image")
        (tmp_path / name / "1.png").write_text("no image")
    with pytest.raises(DataError, match="none of the 2 images is readable"):
        load(tmp_path, skip_unreadable=True)


# Wrong folders


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "x") == (
        f"dataset.path={tmp_path / 'x'}: there is no such folder. "
        "Give the folder that holds one folder a class."
    )


def test_a_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "0.png")
    assert "holds 1 images and no class folders" in refusal(tmp_path)
    assert "into a folder of its own" in refusal(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    assert "there is one class, 'a'; at least 2 are needed" in refusal(class_folders(tmp_path, names="a"))


def test_a_class_that_is_only_tested_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "train")
    class_folders(tmp_path / "test", names="abc")
    assert "has the class 'c', which has no training images. The classes are a, b." in refusal(tmp_path)


def test_a_class_of_one_image_is_refused(tmp_path: Path) -> None:
    save(class_folders(tmp_path) / "c" / "0.png")
    assert "the class 'c' has no training image" in refusal(tmp_path)
