"""Batches, augmentation, splits, and what is told of images."""

import json

import pytest
import torch

from nas_cli.data import NO_AUGMENTATION, Augmentation, Batches, ImageData, ImageInfo, Images
from nas_cli.errors import ConfigError, DataError

ALL = Augmentation(shift=2, mirror=True, cutout=3)


def info(channels: int = 1, size: int = 8, num_classes: int = 4) -> ImageInfo:
    names = tuple(f"class{k}" for k in range(num_classes))
    return ImageInfo(channels, size, names, (0.0,) * channels, (1.0,) * channels, mirror=True)


def some_images(num: int = 20, channels: int = 1, size: int = 8, num_classes: int = 4) -> Images:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(1, 256, (num, channels, size, size), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(num) % num_classes)


def numbered_images(num: int) -> Images:
    """Image k has label k."""
    return Images(torch.zeros(num, 1, 8, 8, dtype=torch.uint8), torch.arange(num))


def batches(images: Images, batch_size: int = 4, seed: int = 0, augmentation: Augmentation = ALL) -> Batches:
    return Batches(images, info(), batch_size=batch_size, seed=seed, augmentation=augmentation)


def augmented(pixels: torch.Tensor, augmentation: Augmentation, seed: int = 0) -> torch.Tensor:
    images = Images(pixels, torch.zeros(len(pixels), dtype=torch.int64))
    in_order = Batches(
        images,
        info(pixels.shape[1], pixels.shape[2]),
        batch_size=len(pixels),
        seed=seed,
        augmentation=augmentation,
        shuffle=False,
    )
    return in_order.batch(0).images


# The order


def test_an_epoch_is_the_number_of_complete_batches() -> None:
    assert len(batches(some_images(22), batch_size=4)) == 5


def test_an_epoch_shows_each_image_once_and_the_next_one_in_another_order() -> None:
    reader = batches(numbered_images(20))
    first, second = (torch.cat([batch.labels for batch in reader.steps(k, k + 5)]) for k in (0, 5))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(20))
    assert first.tolist() != second.tolist()


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    wanted = [batch.images for batch in batches(some_images()).steps(0, 12)]
    resumed = batches(some_images())
    for step in (11, 3, 7, 3):
        assert torch.equal(resumed.batch(step).images, wanted[step])
    assert torch.equal(next(iter(batches(some_images()).steps(6, 12))).images, wanted[6])


def test_another_seed_gives_another_order_and_another_augmentation() -> None:
    orders = [batches(numbered_images(20), seed=seed).batch(0).labels.tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]
    pixels = some_images().pixels
    assert not torch.equal(augmented(pixels, ALL, seed=0), augmented(pixels, ALL, seed=1))


def test_batches_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    batches(some_images()).batch(3)
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluation_reads_every_image_once_in_order() -> None:
    reader = Batches(
        numbered_images(10),
        info(),
        batch_size=4,
        seed=0,
        augmentation=NO_AUGMENTATION,
        shuffle=False,
        drop_last=False,
    )
    assert [batch.labels.tolist() for batch in reader.steps(0, len(reader))] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_a_batch_larger_than_the_data_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"recipe\.batch_size=64 .* 20 images .* at most 20"):
        batches(some_images(20), batch_size=64)


# Augmentation


def test_pixels_are_scaled_and_normalised_by_channel() -> None:
    images = Images(torch.tensor([51, 255], dtype=torch.uint8).view(1, 2, 1, 1), torch.zeros(1).long())
    described = ImageInfo(2, 1, ("a", "b"), (0.1, 0.5), (0.2, 0.25), mirror=True)
    reader = Batches(images, described, batch_size=1, seed=0, augmentation=NO_AUGMENTATION)
    assert reader.batch(0).images.flatten().tolist() == pytest.approx([0.5, 2.0])
    assert reader.batch(0).images.dtype == torch.float32


def test_a_shifted_image_is_a_window_of_the_zero_padded_one() -> None:
    pixels = some_images(30, channels=2).pixels
    padded = torch.nn.functional.pad(pixels, (2, 2, 2, 2)) / 255
    windows = {(y, x): padded[:, :, y : y + 8, x : x + 8] for y in range(5) for x in range(5)}
    seen = set()
    for k, image in enumerate(augmented(pixels, Augmentation(shift=2))):
        places = [place for place, window in windows.items() if torch.allclose(window[k], image)]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) > 10


def test_about_half_of_the_images_are_mirrored_left_to_right() -> None:
    pixels = some_images(200).pixels
    images = augmented(pixels, Augmentation(mirror=True))
    mirrored = [torch.allclose(image, old.flip(-1) / 255) for image, old in zip(images, pixels, strict=True)]
    kept = [torch.allclose(image, old / 255) for image, old in zip(images, pixels, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


def test_cutout_blanks_one_square_that_the_border_may_cut() -> None:
    ones = torch.full((300, 3, 8, 8), 255, dtype=torch.uint8)
    blank = (augmented(ones, Augmentation(cutout=4)) == 0).all(1)
    heights, widths = blank.any(2).sum(1), blank.any(1).sum(1)
    assert torch.equal(blank.sum((1, 2)), heights * widths)
    # Centre row r blanks rows r-2 to r+1: of 8 rows, one leaves 2, two leave 3, five leave 4.
    assert heights.unique().tolist() == widths.unique().tolist() == [2, 3, 4]
    assert blank.any(0).all()


def test_a_new_augmentation_leaves_the_others_as_they_were() -> None:
    pixels = some_images(30).pixels
    plain = augmented(pixels, Augmentation(shift=2, mirror=True))
    blanked = augmented(pixels, Augmentation(shift=2, mirror=True, cutout=2))
    assert torch.equal(blanked[blanked != 0], plain[blanked != 0])


# Parts


def data_of(labels: list[int], num_classes: int) -> ImageData:
    images = Images(torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), torch.tensor(labels))
    marked = Images(images.pixels + torch.arange(len(labels)).view(-1, 1, 1, 1).byte(), images.labels)
    return ImageData(info(num_classes=num_classes), marked, images)


def test_a_split_is_disjoint_complete_and_keeps_proportions() -> None:
    data = data_of([0] * 60 + [1] * 30 + [2] * 10, 3)
    first, rest = data.split(0.3, seed=0)
    assert first.labels.bincount().tolist() == [18, 9, 3]
    assert rest.labels.bincount().tolist() == [42, 21, 7]
    marks = torch.cat([part.read(torch.arange(len(part)))[0][:, 0, 0, 0] for part in (first, rest)])
    assert marks.sort().values.tolist() == list(range(100))


def test_a_split_is_exact_where_classes_do_not_divide() -> None:
    first, rest = data_of([k % 3 for k in range(50)], 3).split(0.5, seed=0)
    assert (len(first), len(rest)) == (25, 25)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_every_class_is_in_both_parts(fraction: float) -> None:
    for part in data_of([0] * 50 + [1, 1] + [2, 2, 2], 3).split(fraction, seed=0):
        assert part.labels.unique().tolist() == [0, 1, 2]


def test_the_seed_decides_the_split() -> None:
    data = data_of([k % 2 for k in range(40)], 2)
    one, same, other = (
        data.split(0.5, seed)[0].read(torch.arange(20))[0][:, 0, 0, 0].tolist() for seed in (0, 0, 1)
    )
    assert one == same
    assert one != other


def test_a_class_too_small_to_split_is_named() -> None:
    with pytest.raises(DataError, match=r"'class1' has 1 training image; .* at least 2"):
        data_of([0, 0, 0, 1], 2).split(0.5, seed=0)


def test_data_moves_to_a_device_as_a_whole() -> None:
    moved = data_of([0, 0, 1, 1], 2).to("meta")
    assert (moved.train.device.type, moved.test.device.type) == ("meta", "meta")


# What is told of the images


def test_info_survives_json() -> None:
    described = ImageInfo(3, 32, ("cat", "dog"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), mirror=False)
    assert ImageInfo.from_json(json.loads(json.dumps(described.to_json()))) == described
    assert described.num_classes == 2


def test_a_wrong_info_is_refused_by_its_entry() -> None:
    content = info().to_json()
    with pytest.raises(DataError, match="wrong at 'size'"):
        ImageInfo.from_json({**content, "size": "large"})
    del content["class_names"]
    with pytest.raises(DataError, match="wrong at 'class_names'"):
        ImageInfo.from_json(content)
