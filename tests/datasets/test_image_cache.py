"""Decoded images on the disk: when they are used again, when not, and what damage or a full disk costs."""

import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_cli.data import ImageData
from nas_cli.datasets.folder import Folder
from nas_cli.datasets.image_cache import ImageCache, MappedImages
from nas_cli.errors import ConfigError, DataError
from tests.datasets.test_folder import class_folders, save, tear


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="nas_cli")


def load(folder: Path, **settings: str | int | float | bool) -> ImageData:
    """The images in `folder / photos`, with the cache beside them."""
    settings.setdefault("cache", str(folder / "cache"))
    return Folder(path=str(folder / "photos"), **settings).load()  # type: ignore[arg-type]


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cache").iterdir())


def pixels(data: ImageData) -> Tensor:
    return torch.cat([part.read(torch.arange(len(part)))[0] for part in (data.train, data.test)])


def test_a_folder_is_decoded_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class_folders(tmp_path / "photos")
    load(tmp_path)
    (file,) = kept(tmp_path)
    assert caplog.messages == [f"10 decoded images are kept in {file}, for other commands too."]
    caplog.clear()
    load(tmp_path)
    assert caplog.messages == [f"10 decoded images are read from {file}."]


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_images_from_the_cache_are_those_of_the_files(tmp_path: Path, memory_gb: float) -> None:
    class_folders(tmp_path / "photos")
    without = load(tmp_path, cache_gb=0)
    for data in (load(tmp_path, memory_gb=memory_gb), load(tmp_path, memory_gb=memory_gb)):
        assert isinstance(data.train, MappedImages)
        assert data.info == without.info
        for one, other in zip(data.split(0.5, 1), without.split(0.5, 1), strict=True):
            everything = torch.arange(len(other))
            assert torch.equal(one.read(everything)[0], other.read(everything)[0])
            assert torch.equal(one.read(everything)[1], other.read(everything)[1])


def test_a_copy_of_the_folder_needs_no_decoding(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    load(tmp_path)
    shutil.copytree(tmp_path / "photos", tmp_path / "copy" / "photos")
    load(tmp_path / "copy", cache=str(tmp_path / "cache"))
    assert len(kept(tmp_path)) == 1


def test_another_part_for_the_test_needs_no_decoding(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    load(tmp_path)
    assert len(load(tmp_path, test_fraction=0.4).test) == 4
    assert len(kept(tmp_path)) == 1


def test_a_changed_image_is_read_as_it_is_now(tmp_path: Path) -> None:
    photo = class_folders(tmp_path / "photos") / "a" / "0.png"
    load(tmp_path)
    times = photo.stat()
    save(photo, seed=99)
    os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert torch.equal(pixels(load(tmp_path)), pixels(load(tmp_path, cache_gb=0)))
    assert len(kept(tmp_path)) == 2


def test_each_size_is_kept_by_itself(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    assert [load(tmp_path, size=size).info.size for size in (8, 9, 8)] == [8, 9, 8]
    assert [file.name.split("-")[1] for file in kept(tmp_path)] == ["3x8x8.images", "3x9x9.images"]


def test_twins_are_kept_once(tmp_path: Path) -> None:
    photo = class_folders(tmp_path / "photos") / "a" / "0.png"
    shutil.copy(photo, photo.with_name("twin.png"))
    assert len(load(tmp_path).train) == 9
    assert len(load(tmp_path).train) == 9


# Damaged


@pytest.mark.parametrize(
    ("place", "reason"), [(0, "image 0 is damaged"), (-60, "its index is damaged"), (-20, "it is not whole")]
)
def test_a_damaged_byte_is_noticed_and_made_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int, reason: str
) -> None:
    class_folders(tmp_path / "photos")
    load(tmp_path)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 1
    file.write_bytes(damaged)
    load(tmp_path)
    assert f"{file} cannot be used ({reason}): the images are decoded again." in caplog.messages
    assert file.read_bytes() == whole


@pytest.mark.parametrize("length", [0, 10, 1000])
def test_a_file_that_is_cut_off_is_made_anew(tmp_path: Path, length: int) -> None:
    class_folders(tmp_path / "photos")
    load(tmp_path)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    load(tmp_path)
    assert file.read_bytes() == whole


def test_what_dies_while_it_decodes_leaves_nothing(tmp_path: Path) -> None:
    def dying() -> Iterator[tuple[bytes, Tensor]]:
        yield b"0" * 16, torch.zeros(1, 8, 8, dtype=torch.uint8)
        raise KeyboardInterrupt

    cache = ImageCache(tmp_path / "cache", 1e9)
    with pytest.raises(KeyboardInterrupt):
        cache.write(cache.file_of([], 1, 8), dying(), 64)
    assert kept(tmp_path) == []


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    (tmp_path / "cache").mkdir()
    fresh, old = (tmp_path / "cache" / f".{name}.images.1.tmp" for name in ("fresh", "old"))
    for file, hours in ((fresh, 1), (old, 25)):
        file.touch()
        os.utime(file, (time.time() - 3600 * hours,) * 2)
    load(tmp_path)
    assert (fresh.exists(), old.exists()) == (True, False)


# Room


def test_no_cache_is_made_where_it_may_take_no_room(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    assert len(load(tmp_path, cache_gb=0).train) == 8
    assert not (tmp_path / "cache").exists()


def test_what_was_unused_for_longest_makes_room(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    for size in (8, 9):
        load(tmp_path, size=size)
    eight, nine = kept(tmp_path)
    os.utime(eight, (2e9, 2e9))
    load(tmp_path, size=10, cache_gb=6e-6)  # 192 + 300 bytes an image, and the index
    assert [file.exists() for file in (eight, nine)] == [True, False]
    assert len(kept(tmp_path)) == 2


def test_a_cache_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class_folders(tmp_path / "photos")
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert len(load(tmp_path).train) == 8
    cannot = f"Decoded images cannot be kept in dataset.cache={tmp_path / 'cache'}"
    assert [record.levelname for record in caplog.records if cannot in record.message] == ["WARNING"]


def test_a_cache_among_the_images_is_refused(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    with pytest.raises(ConfigError, match=r"lies within dataset.path=.*Give a folder outside of it"):
        load(tmp_path, cache=str(tmp_path / "photos" / "cache"))


# Unreadable


def test_unreadable_images_are_told_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class_folders(tmp_path / "photos")
    tear(save(tmp_path / "photos" / "a" / "9.png"))
    for _ in range(2):
        caplog.clear()
        assert len(pixels(load(tmp_path, skip_unreadable=True))) == 10
        assert sum("9.png, which is no readable image" in message for message in caplog.messages) == 1
    with pytest.raises(DataError, match=r"9.png is no readable image"):
        load(tmp_path)


def test_an_unreadable_image_leaves_no_cache(tmp_path: Path) -> None:
    class_folders(tmp_path / "photos")
    tear(save(tmp_path / "photos" / "a" / "9.png"))
    with pytest.raises(DataError, match=r"9.png is no readable image"):
        load(tmp_path)
    assert kept(tmp_path) == []


def test_nothing_but_torn_images_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        for k in range(3):
            tear(save(tmp_path / "photos" / name / f"{k}.png"))
    with pytest.raises(DataError, match="has no training image"):
        load(tmp_path, skip_unreadable=True)
