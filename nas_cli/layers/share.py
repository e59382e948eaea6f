"""What an edge brings to its target, in a form that the target can sum in few passes over memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nas_cli.layers.partial_channels import blend_and_shuffle
from nas_cli.layers.phases import merge_phases
from nas_cli.layers.pointwise import Mix


@dataclass(frozen=True, slots=True)
class Product:
    """images (n, c, h, w) times matrix (c, o); `split`: the images are in the layout of `split_phases`."""

    images: Tensor
    matrix: Tensor
    split: bool


@dataclass(frozen=True, slots=True)
class Share:
    """The sum of finished values (n, o, h, w), of products, and of biases (o) of its products.

    `passing`: channels beside them that no candidate saw, as (weight, images).
    """

    values: list[Tensor] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)
    biases: list[Tensor] = field(default_factory=list)
    passing: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def total(shares: Sequence[Share], partial_channels: int = 1) -> Tensor | None:
    """The sum of all shares; None where they are empty."""
    seen = _total_of_seen(shares)
    passing = [pair for share in shares for pair in share.passing]
    return blend_and_shuffle(seen, passing, partial_channels) if passing else seen


def _total_of_seen(shares: Sequence[Share]) -> Tensor | None:
    values, products, biases = [], [], []
    for share in shares:
        values += share.values
        products += share.products
        biases += share.biases
    whole = [product for product in products if not product.split]
    split = [product for product in products if product.split]
    if not products:
        return sum(values[1:], values[0]) if values else None
    bias = torch.stack(biases).sum(0)
    if not split:
        return _mix(bias, values, whole)
    if not whole:
        return sum(values, merge_phases(_mix(bias, [], split)))
    return _mix(bias, [*values, merge_phases(_mix(None, [], split))], whole)


def _mix(bias: Tensor | None, values: list[Tensor], products: list[Product]) -> Tensor:
    images = [product.images for product in products]
    matrices = [product.matrix for product in products]
    mixed: Tensor = Mix.apply(len(values), len(products), bias, *values, *images, *matrices)
    return mixed
