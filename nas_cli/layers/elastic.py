"""Inverted residual blocks of many kernels and expansions that are cut from one set of weights.

Once-for-All (arXiv:1908.09791, section 3.3): a smaller kernel is the centre of the next larger one, times
a learnt matrix that all channels share; a smaller expansion has the first of the hidden channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_cli.layers.inverted_residual import (
    ACTIVATIONS,
    Block,
    ConvNorm,
    DepthwiseConvNorm,
    InvertedResidual,
    Place,
)
from nas_cli.layers.sliced import SlicedBatchNorm, take_slices


class SlicedConvNorm(ConvNorm):
    """A 1x1 convolution that reads as many channels as the images have and gives the first `out_channels`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels)
        self.norm = SlicedBatchNorm(out_channels)

    def forward(self, x: Tensor, out_channels: int | None = None) -> Tensor:
        normalised: Tensor = self.norm(F.conv2d(x, self.conv.weight[:out_channels, : x.shape[1]]))
        return normalised


class ElasticDepthwiseConvNorm(DepthwiseConvNorm):
    """A depthwise convolution with any of `kernels`, ascending, of as many channels as the images have.

    `transforms[k]` has shape (n * n, n * n) for kernels[k] = n and makes that kernel of the centre of
    the next larger one; it starts as the identity.
    """

    def __init__(self, channels: int, kernels: Sequence[int], stride: int, *, plain: bool = False) -> None:
        super().__init__(channels, kernels[-1], stride, plain=plain)
        self.norm = SlicedBatchNorm(channels)
        self.kernels = tuple(kernels)
        self.transforms = nn.ParameterList(torch.eye(kernel**2) for kernel in kernels[:-1])

    def forward(self, x: Tensor, kernel: int | None = None) -> Tensor:
        weight = self.weight_of(kernel or self.kernels[-1], x.shape[1])
        normalised: Tensor = self.norm(self.convolve(x, weight))
        return normalised

    def weight_of(self, kernel: int, channels: int) -> Tensor:
        """The weights (channels, 1, kernel, kernel) of a kernel for the first channels."""
        weight: Tensor = self.conv.weight[:channels]
        smaller = reversed(list(zip(self.kernels, self.transforms, strict=False)))
        for size, transform in smaller:
            if size >= kernel:
                weight = F.linear(centre(weight, size).flatten(1), transform).view(-1, 1, size, size)
        return weight


def centre(weight: Tensor, size: int) -> Tensor:
    """The middle size x size of kernels (channels, 1, kernel, kernel)."""
    border = (weight.shape[2] - size) // 2
    return weight[:, :, border : border + size, border : border + size]


class ElasticInvertedResidual(nn.Module):
    """An inverted residual block with any of the kernels and any of the expansions, both ascending."""

    def __init__(
        self, place: Place, kernels: Sequence[int], expansions: Sequence[int], *, plain: bool = False
    ) -> None:
        super().__init__()
        hidden = expansions[-1] * place.in_channels
        self.place = place
        self.expand = SlicedConvNorm(place.in_channels, hidden)
        self.depthwise = ElasticDepthwiseConvNorm(hidden, kernels, place.stride, plain=plain)
        self.project = SlicedConvNorm(hidden, place.out_channels)

    def forward(self, x: Tensor, block: Block) -> Tensor:
        activation = ACTIVATIONS[self.place.activation]
        wide = activation(self.expand(x, block.expansion * self.place.in_channels))
        narrow: Tensor = self.project(activation(self.depthwise(wide, block.kernel)))
        return x + narrow if self.place.has_shortcut else narrow

    @torch.no_grad()
    def cut_out(self, block: Block) -> InvertedResidual:
        """This block by itself, with copies of its weights and statistics."""
        with torch.device("meta"):  # no initial weights are drawn
            alone = InvertedResidual(self.place, block)
        take_slices(alone, self)
        hidden = block.expansion * self.place.in_channels
        alone.depthwise.conv.weight.copy_(self.depthwise.weight_of(block.kernel, hidden))
        return alone

    @torch.no_grad()
    def sort_channels(self, expansion: int) -> None:
        """Order the hidden channels of this expansion by importance, the most important first.

        Importance is the L1 norm of the weights that read the channel (section 3.3), those of the last
        convolution. This expansion and all larger ones compute what they did before.
        """
        hidden = expansion * self.place.in_channels
        importance = self.project.conv.weight[:, :hidden].abs().sum((0, 2, 3))
        order = importance.argsort(descending=True, stable=True)
        for tensor in self._by_hidden_channel():
            tensor[:hidden] = tensor[order]

    def _by_hidden_channel(self) -> list[Tensor]:
        """Views of all weights and statistics of the hidden channels, which are their first dimension."""
        norms = [*self.expand.norm.state_dict().values(), *self.depthwise.norm.state_dict().values()]
        convs = [
            self.expand.conv.weight,
            self.depthwise.conv.weight,
            self.project.conv.weight.transpose(0, 1),
        ]
        return [*convs, *(tensor for tensor in norms if tensor.dim() == 1)]
