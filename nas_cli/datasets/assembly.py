"""The last steps of every data set: check the parts, limit the training images, measure them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from nas_cli.data import ImageData, ImageInfo, Part, stratified
from nas_cli.errors import DataError
from nas_cli.seeds import stream

SIZES = range(8, 225)
CHANNELS = range(1, 5)
CHUNK = 256
VALUES_AT_A_TIME = 2**18


def assemble(
    train: Part,
    test: Part,
    *,
    class_names: Sequence[str],
    mirror: bool,
    limit: int | None,
    source: str,
    measured: int | None = None,
) -> ImageData:
    """Check, limit and measure. `source` opens the messages, such as `dataset.path=photos`.

    Mean and std are taken from all training images, or from `measured` of them at even distances.
    Raises DataError.
    """
    _check_labels(train.labels, class_names, source)
    if limit is not None:
        train = train.select(limited(train.labels, class_names, limit, source))
    channels, size = _check_shape(train, test, source)
    mean, std = _measure(train, measured)
    info = ImageInfo(channels, size, tuple(class_names), mean, std, mirror)
    return ImageData(info, train, test)


def limited(labels: Tensor, class_names: Sequence[str], limit: int, source: str) -> Tensor:
    """Indices of `limit` images in the classes' proportions, always the same ones."""
    if limit > len(labels):
        raise DataError(
            f"{source}: dataset.limit={limit} is more than the {len(labels)} training images there are. "
            f"Set dataset.limit to at most {len(labels)}, or to null for all of them."
        )
    if limit < len(class_names):
        raise DataError(
            f"{source}: dataset.limit={limit} is fewer than the {len(class_names)} classes; "
            f"each needs an image. Set dataset.limit to at least {len(class_names)}."
        )
    return stratified(labels, limit, stream(0, "limit"))[0]


def _check_labels(labels: Tensor, class_names: Sequence[str], source: str) -> None:
    if len(class_names) < 2:
        raise DataError(f"{source}: there is one class, {class_names[0]!r}; at least 2 are needed.")
    counts = torch.bincount(labels, minlength=len(class_names)).tolist()
    for name, count in zip(class_names, counts, strict=True):
        if count == 0:
            raise DataError(f"{source}: the class {name!r} has no training image. Add some or leave it out.")


def _check_shape(train: Part, test: Part, source: str) -> tuple[int, int]:
    if len(test) == 0:
        raise DataError(f"{source}: there are no test images, so nothing could be reported of the result.")
    first = torch.zeros(1, dtype=torch.int64)
    (channels, height, width), test_shape = (tuple(part.read(first)[0].shape[1:]) for part in (train, test))
    if (channels, height, width) != test_shape:
        raise DataError(
            f"{source}: training images have the shape {(channels, height, width)} (channels, height, width) "
            f"and test images {test_shape}. Save both in one shape."
        )
    if channels not in CHANNELS:
        raise DataError(f"{source}: images have {channels} channels; 1 to 4 are supported.")
    if height != width:
        raise DataError(
            f"{source}: images are {height} x {width} pixels (height x width); only squares are supported. "
            "Crop or resize them before saving."
        )
    if height not in SIZES:
        raise DataError(
            f"{source}: images are {height} x {width} pixels; {SIZES[0]} to {SIZES[-1]} are supported. "
            "Resize them before saving."
        )
    return channels, height


def _measure(train: Part, measured: int | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, of pixels scaled to 0..1; the std of a constant channel is 1."""
    stride = 1 if measured is None else max(1, len(train) // measured)
    chunks = torch.arange(0, len(train), stride).split(CHUNK)
    sums = torch.stack([_sums(train.read(chunk)[0]) for chunk in chunks]).sum(0)
    count, total, squares = sums.unbind()
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std < 1e-6, 1.0, std)
    return tuple(mean.tolist()), tuple(std.tolist())


def _sums(pixels: Tensor) -> Tensor:
    """Number, sum and sum of squares of a channel's values: float64 (3, channels).

    The values of a few images at a time stay in the processor's cache: 7 times as fast as all at once.
    """
    at_a_time = max(1, VALUES_AT_A_TIME // pixels[0].numel())
    values = torch.empty(at_a_time, *pixels.shape[1:])
    sums = [_sums_of(values[: len(few)].copy_(few)) for few in pixels.split(at_a_time)]
    return torch.stack(sums).sum(0)


def _sums_of(values: Tensor) -> Tensor:
    """The same of values 0..255, which are changed."""
    values.div_(255)
    total = values.sum((2, 3)).double().sum(0)
    squares = values.square_().sum((2, 3)).double().sum(0)
    return torch.stack((torch.full_like(total, values[:, 0].numel()), total, squares))
