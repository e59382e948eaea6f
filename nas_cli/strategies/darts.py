"""DARTS: Differentiable Architecture Search (arXiv:1806.09055)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from nas_cli.data import Batch
from nas_cli.recipe import NonNegative, Positive, Share
from nas_cli.seeds import stream
from nas_cli.strategy import Problem, WeightSharingStrategy
from nas_cli.supernet import Gate
from nas_cli.training import Descent, State


class Darts(WeightSharingStrategy):
    """Softmax gates, whose logits descend on the loss of images that the weights do not see.

    `order=1` takes that gradient at the weights as they are. `order=2` takes it through one virtual step
    of the weights (equation 6), which holds the product of a second derivative and a vector: `exact` by
    differentiating twice, `finite_differences` as the paper (equation 8), whose step is
    `finite_difference_step` over the vector's norm. The first `warmup_epochs` train the weights alone.

    A step costs 3.9 times the time of first order and 3.1 times its memory with the exact product, 2.6 and
    1.3 times with finite differences (`benchmarks/darts_orders.py`: 8 cells, 16 channels, batch 32).

    Deviations: the learning rate of the weights is stepped along its cosine at every step, not epoch;
    the search network's accuracy is that of the batches the architecture descends on.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        order: Literal[1, 2] = 1,
        hessian: Literal["exact", "finite_differences"] = "exact",
        finite_difference_step: Positive = 0.01,
        learning_rate: Positive = 3e-4,
        betas: tuple[Share, Share] = (0.5, 0.999),
        weight_decay: NonNegative = 1e-3,
        warmup_epochs: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        super().__init__(problem)
        self.order = order
        self.hessian = hessian
        self.finite_difference_step = finite_difference_step
        self.warmup_epochs = warmup_epochs
        self.warming_up = warmup_epochs > 0
        device, draws = problem.trainer.device, stream(problem.seed, "gate logits")
        self.logits = [
            nn.Parameter((1e-3 * torch.randn(shape, generator=draws)).to(device))
            for shape in self.supernet.gate_shapes
        ]
        self.optimizer = torch.optim.Adam(
            self.logits,
            lr=learning_rate,
            betas=cast(tuple[float, float], tuple(betas)),
            weight_decay=weight_decay,
        )

    def gates(self) -> list[Gate]:
        return [Gate.soft(logits.softmax(-1)) for logits in self.logits]

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.warming_up = epoch < self.warmup_epochs

    @torch.no_grad()
    def paths(self) -> list[list[Gate]]:
        return [self.gates()]

    @torch.no_grad()
    def gate_weights(self) -> list[Tensor]:
        return [gate.weights for gate in self.gates()]

    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        if self.warming_up:
            return
        for logits, gradient in zip(self.logits, self.gradient(train, valid, descent), strict=True):
            logits.grad = gradient
        self.optimizer.step()

    def gradient(self, train: Batch, valid: Batch, descent: Descent) -> Sequence[Tensor]:
        """The gradient of the validation loss with respect to the logits, one tensor a gate."""
        if self.order == 1:
            with frozen(self.supernet):
                return torch.autograd.grad(self._loss_on(valid, {}, tally=True), self.logits)
        if self.hessian == "exact":
            return self._exact_gradient(train, valid, descent)
        return self._finite_difference_gradient(train, valid, descent)

    def _exact_gradient(self, train: Batch, valid: Batch, descent: Descent) -> Sequence[Tensor]:
        weights = dict(self.supernet.named_parameters())
        train_loss = self._loss_on(train, weights)
        gradients = torch.autograd.grad(
            train_loss, list(weights.values()), create_graph=True, materialize_grads=True
        )
        virtual = virtual_step(weights, gradients, descent)
        return torch.autograd.grad(self._loss_on(valid, virtual, tally=True), self.logits)

    def _finite_difference_gradient(self, train: Batch, valid: Batch, descent: Descent) -> Sequence[Tensor]:
        weights = dict(self.supernet.named_parameters())
        gradients = torch.autograd.grad(
            self._loss_on(train, weights), list(weights.values()), materialize_grads=True
        )
        with torch.no_grad():
            virtual = virtual_step(weights, gradients, descent)
        leaves = {name: weight.requires_grad_() for name, weight in virtual.items()}
        valid_loss = self._loss_on(valid, leaves, tally=True)
        direct, vector = _split(
            torch.autograd.grad(valid_loss, [*self.logits, *leaves.values()], materialize_grads=True),
            len(self.logits),
        )
        norm = torch.sqrt(sum(((part**2).sum() for part in vector), torch.zeros((), device=vector[0].device)))
        step = self.finite_difference_step / norm.clamp_min(1e-12)  # where no weight matters, none is moved
        above, below = (self._logit_gradient_at(train, weights, vector, shift) for shift in (step, -step))
        return [
            gradient - descent.learning_rate * (plus - minus) / (2 * step)
            for gradient, plus, minus in zip(direct, above, below, strict=True)
        ]

    def _logit_gradient_at(
        self, train: Batch, weights: dict[str, nn.Parameter], vector: Sequence[Tensor], shift: Tensor
    ) -> Sequence[Tensor]:
        """The training loss's gradient with respect to the logits, at weights moved along the vector."""
        moved = {
            name: (weight + shift * part).detach()
            for (name, weight), part in zip(weights.items(), vector, strict=True)
        }
        return torch.autograd.grad(self._loss_on(train, moved), self.logits)

    def _loss_on(self, batch: Batch, weights: Mapping[str, Tensor], tally: bool = False) -> Tensor:
        """The loss under these weights, those of the supernet where the dictionary is empty."""
        with self.problem.trainer.autocast():
            logits = functional_call(self.supernet, dict(weights), (batch.images, self.gates()))
            loss = self.loss(logits, batch.labels, batch.images)
        if tally:
            self.valid_tally.add(loss, logits, batch.labels)
        return loss

    def architecture_state(self) -> State:
        return {
            "logits": [logits.detach() for logits in self.logits],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_architecture_state(self, state: State) -> None:
        for logits, saved in zip(self.logits, cast(list[Tensor], state["logits"]), strict=True):
            logits.data.copy_(saved)
        self.optimizer.load_state_dict(cast(State, state["optimizer"]))


def virtual_step(
    weights: dict[str, nn.Parameter], gradients: Sequence[Tensor], descent: Descent
) -> dict[str, Tensor]:
    """The weights after one step of the weights' own optimiser, with its momentum and weight decay."""
    rate, recipe = descent.learning_rate, descent.recipe
    moved = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        change = gradient + recipe.weight_decay * weight
        momentum = descent.optimizer.state[weight].get("momentum_buffer")
        velocity = change if momentum is None else change + recipe.momentum * momentum
        if recipe.nesterov:
            velocity = change + recipe.momentum * velocity
        moved[name] = weight - rate * velocity
    return moved


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no gradients of the parameters are computed: the architecture step needs the gates' alone."""
    parameters = list(module.parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _split(tensors: Sequence[Tensor], count: int) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    return tensors[:count], tensors[count:]
