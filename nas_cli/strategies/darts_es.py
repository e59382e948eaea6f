"""DARTS-ES: Understanding and Robustifying Differentiable Architecture Search (arXiv:1909.09656)."""

from collections.abc import Callable
from statistics import fmean
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from nas_cli.architecture import Architecture, Json
from nas_cli.data import Batch
from nas_cli.evaluator import Evaluator
from nas_cli.recipe import Count, NonNegative, Positive, Share
from nas_cli.run import Run
from nas_cli.seeds import stream
from nas_cli.strategies.darts import Darts, frozen
from nas_cli.strategy import Problem
from nas_cli.training import State


class DartsEarlyStopping(Darts):
    """DARTS that stops where the validation loss grows sharp, and takes the architecture from before.

    After each epoch the largest eigenvalue of the Hessian of the validation loss with respect to the
    logits is measured, always on the same batch. Its mean over `window` epochs rises too fast where the mean
    `lag` epochs before is below `threshold` of it: then the search ends with the architecture in the middle
    of that earlier window, unless that is before `first_epoch`. So a search of up to first_epoch + lag +
    window / 2 epochs is never stopped.

    Deviations: first order is the default (the paper: second); the eigenvalue is that of `num_products`
    steps of the Lanczos iteration, each a product of the Hessian and a vector, not of the whole Hessian; it
    is measured on the first `num_images` of a batch (the paper: all). With the defaults and a batch of 64
    a measurement takes as long as five steps; differences of gradients would be cheaper, but see the kinks
    of the rectifiers, which a Hessian does not.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        window: Count = 5,
        lag: Count = 5,
        threshold: Annotated[float, Field(gt=0, le=1)] = 0.75,
        first_epoch: Annotated[int, Field(ge=0)] = 10,
        num_products: Count = 12,
        num_images: Count = 16,
        order: Literal[1, 2] = 1,
        hessian: Literal["exact", "finite_differences"] = "exact",
        finite_difference_step: Positive = 0.01,
        learning_rate: Positive = 3e-4,
        betas: tuple[Share, Share] = (0.5, 0.999),
        weight_decay: NonNegative = 1e-3,
        warmup_epochs: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(
            problem,
            order=order,
            hessian=hessian,
            finite_difference_step=finite_difference_step,
            learning_rate=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
        )
        self.window, self.lag, self.threshold = window, lag, threshold
        self.first_epoch = first_epoch
        self.num_products, self.num_images = num_products, num_images
        self.eigenvalues: list[float] = []
        self.trail: list[list[int]] = []

    def end_epoch(self, epoch: int) -> dict[str, Json]:
        record = super().end_epoch(epoch)
        self.eigenvalues.append(self.largest_eigenvalue())
        self.trail.append(list(self.supernet.discretise(self.gate_weights()).picks))
        self.finished = self.before_the_rise() is not None
        return {**record, "eigenvalue": self.eigenvalues[-1]}

    def derive(self, run: Run, evaluator: Evaluator) -> Architecture:
        before = self.before_the_rise()
        if before is None:
            return super().derive(run, evaluator)
        run.log.info(
            "The largest eigenvalue of the validation loss rose too fast: the search ends after epoch %d "
            "with the architecture of epoch %d.",
            len(self.trail),
            before + 1,
        )
        return Architecture(tuple(self.trail[before]))

    def before_the_rise(self) -> int | None:
        """The epoch to go back to; None where the eigenvalue does not rise too fast."""
        earlier_end = len(self.eigenvalues) - self.lag
        middle = earlier_end - 1 - self.window // 2
        if earlier_end < self.window or middle < self.first_epoch:
            return None
        earlier = fmean(self.eigenvalues[earlier_end - self.window : earlier_end])
        now = fmean(self.eigenvalues[-self.window :])
        return middle if earlier < self.threshold * now else None

    def largest_eigenvalue(self) -> float:
        """Of the Hessian of the loss on the first validation batch with respect to the logits."""
        images, labels = self.valid_data.batch(0)
        batch = self.problem.trainer.arrange(Batch(images[: self.num_images], labels[: self.num_images]))
        buffers = {
            name: buffer.clone() for name, buffer in self.supernet.named_buffers()
        }  # keeps the statistics
        parameters = self.architecture_parameters
        with frozen(self.supernet):
            loss, _ = self.loss_on(batch, buffers)
            gradient = _flat(torch.autograd.grad(loss, parameters, create_graph=True))
            return lanczos(
                lambda vector: _flat(torch.autograd.grad(gradient, parameters, vector, retain_graph=True)),
                torch.randn(len(gradient), generator=stream(self.problem.seed, "eigenvalue")).to(gradient),
                self.num_products,
            )

    def architecture_state(self) -> State:
        watched = {"eigenvalues": self.eigenvalues, "trail": self.trail, "finished": self.finished}
        return {**super().architecture_state(), **watched}

    def load_architecture_state(self, state: State) -> None:
        super().load_architecture_state(state)
        self.eigenvalues = list(cast(list[float], state["eigenvalues"]))
        self.trail = list(cast(list[list[int]], state["trail"]))
        self.finished = cast(bool, state["finished"])


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, num_products: int) -> float:
    """The largest eigenvalue of a symmetric matrix that is known by its products with vectors.

    Exact where there are as many products as rows; it waits for the device at each.
    """
    basis, images = [start / start.norm()], list[Tensor]()
    while len(images) < min(num_products, len(start)):
        images.append(product(basis[-1]))
        known = torch.stack(basis)
        rest = images[-1]
        for _ in range(2):  # once leaves what rounding adds
            rest = rest - known.t() @ (known @ rest)
        if rest.norm() <= 1e-6 * images[-1].norm():
            break
        basis.append(rest / rest.norm())
    projected = torch.stack(basis[: len(images)]) @ torch.stack(images).t()
    return float(torch.linalg.eigvalsh((projected + projected.t()) / 2)[-1])


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
