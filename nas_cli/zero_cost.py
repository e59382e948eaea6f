"""How good a network is before it is trained: what one batch tells of its initial weights.

The scores are those that "Zero-Cost Proxies for Lightweight NAS" (arXiv:2101.08134) compares.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from nas_cli.data import Batch
from nas_cli.errors import UnsupportedError

RECTIFIERS = (
    torch.ops.aten.relu,
    torch.ops.aten.relu_,
    torch.ops.aten.hardtanh,
    torch.ops.aten.hardtanh_,
    torch.ops.aten.hardswish,
    torch.ops.aten.hardswish_,
)
SMALLEST_EIGENVALUE = 1e-6


@dataclass
class Probe:
    """A freshly initialised network in training mode and a batch; what several scores need is computed once.

    The weights are left as they are; batch statistics may move.
    """

    network: nn.Module
    batch: Batch

    @cached_property
    def weights(self) -> list[Tensor]:
        return weights_of(self.network)

    @cached_property
    def gradients(self) -> list[Tensor]:
        """The cross entropy's, one a weight."""
        loss = F.cross_entropy(self.network(self.batch.images), self.batch.labels)
        return _gradients(loss, self.weights)


def synflow(probe: Probe) -> float:
    """log(1 + sum of |weight * gradient|) for the sum of the logits of an image of ones (arXiv:2006.05467).

    All weights are replaced by their magnitudes and batch norms are left out, as the overview does. In
    double precision, since the sum grows exponentially with depth; on the CPU, as not every device has it.
    """
    positive = _without_norms(deepcopy(probe.network).cpu().double())
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.abs_()
    image = torch.ones(1, *probe.batch.images.shape[1:], dtype=torch.float64)
    weights = weights_of(positive)
    return float(_saliency(weights, _gradients(positive(image).sum(), weights)).log1p())


def naswot(probe: Probe) -> float:
    """log |K|, K[i, j] being the number of rectified units that are both on or both off (arXiv:2006.04647).

    Eigenvalues below 1e-6 count as that, so that images which a network cannot tell apart give a low
    score and not minus infinity. Raises UnsupportedError for a network without rectifiers.
    """
    with torch.no_grad(), _Agreements() as agreements:
        probe.network(probe.batch.images)
    if agreements.kernel is None:
        raise UnsupportedError("naswot counts the rectified units of a network, and this one has none.")
    eigenvalues = torch.linalg.eigvalsh(agreements.kernel.cpu().double())
    return float(eigenvalues.clamp_min(SMALLEST_EIGENVALUE).log().sum())


def grad_norm(probe: Probe) -> float:
    """The sum over layers of the Euclidean norm of the loss' gradient for the weights (arXiv:2101.08134)."""
    return float(torch.stack([gradient.norm() for gradient in probe.gradients]).sum())


def snip(probe: Probe) -> float:
    """The sum of |weight * gradient of the loss| (arXiv:1810.02340)."""
    return float(_saliency(probe.weights, probe.gradients))


def weights_of(network: nn.Module) -> list[Tensor]:
    """The weights of convolutions and linear layers; biases, scales and shifts are not scored."""
    return [parameter for parameter in network.parameters() if parameter.dim() > 1]


def _gradients(total: Tensor, weights: list[Tensor]) -> list[Tensor]:
    """Zeros for weights that nothing depends on, such as those behind `none`."""
    return list(torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True))


def _saliency(weights: list[Tensor], gradients: list[Tensor]) -> Tensor:
    pairs = zip(weights, gradients, strict=True)
    return torch.stack([(weight.detach() * gradient).abs().sum() for weight, gradient in pairs]).sum()


def _without_norms(network: nn.Module) -> nn.Module:
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, nn.Identity())
    return network


class _Agreements(TorchDispatchMode):
    """While active, counts for each pair of images the rectified units that are in the same state.

    `kernel` is (images, images). Networks rectify by functions as well as modules, so the call is watched.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kernel: Tensor | None = None

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: Sequence[type],
        arguments: tuple[Tensor, ...] = (),
        keywords: Mapping[str, object] | None = None,
    ) -> object:
        if getattr(function, "overloadpacket", None) in RECTIFIERS:
            # Channels last, as they mostly lie in memory already: the order of the units does not matter.
            codes = (arguments[0] > 0).movedim(1, -1).flatten(1).float()
            both_on = codes @ codes.T
            on = both_on.diagonal()
            agreements = codes.shape[1] - on[:, None] - on[None] + 2 * both_on
            self.kernel = agreements if self.kernel is None else self.kernel + agreements
        return function(*arguments, **(keywords or {}))
