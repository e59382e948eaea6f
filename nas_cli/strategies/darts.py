"""DARTS: Differentiable Architecture Search (arXiv:1806.09055)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from nas_cli import ranks
from nas_cli.data import Batch
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.optimizers import Adam
from nas_cli.recipe import NonNegative, Positive, Share
from nas_cli.seeds import stream
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate
from nas_cli.training import Descent, State, mean_of
from nas_cli.weight_sharing import WeightSharingStrategy


class Darts(WeightSharingStrategy):
    """Softmax gates, whose logits descend on the loss of images that the weights do not see.

    `order=1` takes that gradient at the weights as they are. `order=2` takes it through one virtual step
    of the weights (equation 6), which holds the product of a second derivative and a vector: `exact` by
    differentiating twice, `finite_differences` as the paper (equation 8), whose step is
    `finite_difference_step` over the vector's norm. The first `warmup_epochs` train the weights alone.

    A step costs 3.2 times the time of first order and 2.8 times its memory with the exact product, 2.6 and
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
        _check_warmup(warmup_epochs, problem.recipe.epochs)
        _check_order(order, problem.recipe.accumulate)
        if order == 2 and ranks.size() > 1:
            raise UnsupportedError(
                "strategy.order=2 differentiates through a step that several processes would have to take "
                "together. Set strategy.order=1, or trainer.devices=1."
            )
        super().__init__(problem)
        self.order = order
        self.hessian = hessian
        self.finite_difference_step = finite_difference_step
        self.warmup_epochs = warmup_epochs
        self.warming_up = warmup_epochs > 0
        self.logits = self.initial_parameters("gate logits", self.supernet.gate_shapes)
        self.optimizer = Adam(
            self.logits,
            lr=learning_rate,
            betas=cast(tuple[float, float], tuple(betas)),
            weight_decay=weight_decay,
        )

    def initial_parameters(self, name: str, shapes: Iterable[tuple[int, ...]]) -> list[nn.Parameter]:
        """Small random ones from a stream of that name."""
        device, draws = self.problem.trainer.device, stream(self.problem.seed, name)
        return [nn.Parameter((1e-3 * torch.randn(shape, generator=draws)).to(device)) for shape in shapes]

    @property
    def architecture_parameters(self) -> list[nn.Parameter]:
        """All that the architecture's optimiser holds; a variant adds its own as a group of parameters."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def weights(self) -> list[Tensor]:
        """The normalised gate weights as learned so far, differentiable in the parameters; draws nothing."""
        return [logits.softmax(-1) for logits in self.logits]

    def gates(self) -> list[Gate]:
        """The gates of one pass; a variant that samples draws anew at each call."""
        return [Gate.soft(weights) for weights in self.weights()]

    def regulariser(self) -> Tensor | float:
        """What is added to the loss that the architecture descends on."""
        return 0.0

    def kinds_of_steps(self) -> list[tuple[str, int, int]]:
        warmup = self.warmup_epochs * self.steps_per_epoch
        kinds = [("warm-up step", 0, warmup), ("step", warmup, self.epochs * self.steps_per_epoch - warmup)]
        return [kind for kind in kinds if kind[2]]

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.warming_up = epoch < self.warmup_epochs

    @torch.no_grad()
    def paths(self) -> list[list[Gate]]:
        return [self.gates()]

    @torch.no_grad()
    def gate_weights(self) -> list[Tensor]:
        return self.weights()

    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        if self.warming_up:
            return
        gradients = self.gradient(train, valid, descent)
        for parameter, gradient in zip(self.architecture_parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()

    def gradient(self, train: Batch, valid: Batch, descent: Descent) -> Sequence[Tensor]:
        """The gradient of the validation loss and the regulariser, one tensor a parameter."""
        if self.order == 1:
            with frozen(self.supernet):
                draws = self.draws.get_state()
                return mean_of([self._gradient_of(part, draws) for part in self.problem.recipe.parts(valid)])
        if self.hessian == "exact":
            return self._exact_gradient(train, valid, descent)
        return self._finite_difference_gradient(train, valid, descent)

    def _gradient_of(self, part: Batch, draws: Tensor) -> Sequence[Tensor]:
        """All parts of a batch are under the same gates."""
        self.draws.set_state(draws)
        with self.problem.trainer.synchronised():
            loss = self._valid_loss(part, {})
        return gradients_of(loss, self.architecture_parameters)

    def _exact_gradient(self, train: Batch, valid: Batch, descent: Descent) -> Sequence[Tensor]:
        weights = dict(self.supernet.named_parameters())
        train_loss, _ = self.loss_on(train, weights)
        gradients = torch.autograd.grad(
            train_loss, list(weights.values()), create_graph=True, materialize_grads=True
        )
        virtual = virtual_step(weights, gradients, descent)
        loss = self._valid_loss(valid, virtual)
        return gradients_of(loss, self.architecture_parameters)

    def _finite_difference_gradient(self, train: Batch, valid: Batch, descent: Descent) -> Sequence[Tensor]:
        weights, parameters = dict(self.supernet.named_parameters()), self.architecture_parameters
        train_loss, _ = self.loss_on(train, weights)
        gradients = torch.autograd.grad(train_loss, list(weights.values()), materialize_grads=True)
        with torch.no_grad():
            virtual = virtual_step(weights, gradients, descent)
        leaves = {name: weight.requires_grad_() for name, weight in virtual.items()}
        direct, vector = _split(
            torch.autograd.grad(
                self._valid_loss(valid, leaves), [*parameters, *leaves.values()], materialize_grads=True
            ),
            len(parameters),
        )
        norm = torch.sqrt(sum(((part**2).sum() for part in vector), torch.zeros((), device=vector[0].device)))
        step = self.finite_difference_step / norm.clamp_min(1e-12)  # where no weight matters, none is moved
        above, below = (self._gradient_at(train, weights, vector, shift) for shift in (step, -step))
        return [
            gradient - descent.learning_rate * (plus - minus) / (2 * step)
            for gradient, plus, minus in zip(direct, above, below, strict=True)
        ]

    def _gradient_at(
        self, train: Batch, weights: dict[str, nn.Parameter], vector: Sequence[Tensor], shift: Tensor
    ) -> Sequence[Tensor]:
        """The training loss's gradient with respect to the parameters, at weights moved along the vector."""
        moved = {
            name: (weight + shift * part).detach()
            for (name, weight), part in zip(weights.items(), vector, strict=True)
        }
        train_loss, _ = self.loss_on(train, moved)
        return torch.autograd.grad(train_loss, self.architecture_parameters)

    def _valid_loss(self, batch: Batch, weights: Mapping[str, Tensor]) -> Tensor:
        """What the architecture descends on; the loss without the regulariser goes into the figures."""
        loss, logits = self.loss_on(batch, weights)
        self.valid_tally.add(loss, logits, batch.labels)
        return loss + self.regulariser()

    def loss_on(self, batch: Batch, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss and logits with these weights (and buffers) in place of those of the supernet."""
        with self.problem.trainer.autocast():
            logits = functional_call(self.supernet, dict(weights), (batch.images, self.gates()))
            return self.loss(logits, batch.labels, batch.images), logits

    def architecture_state(self) -> State:
        return {
            "parameters": [parameter.detach() for parameter in self.architecture_parameters],
            "optimizer": self.optimizer.state_dict(),
        }

    def load_architecture_state(self, state: State) -> None:
        saved_parameters = cast(list[Tensor], state["parameters"])
        for parameter, saved in zip(self.architecture_parameters, saved_parameters, strict=True):
            parameter.data.copy_(saved)
        self.optimizer.load_state_dict(cast(State, state["optimizer"]))


def _check_warmup(warmup_epochs: int, epochs: int) -> None:
    if warmup_epochs >= epochs:
        raise ConfigError(
            f"strategy.warmup_epochs={warmup_epochs} leaves none of recipe.epochs={epochs} to learn the "
            "architecture. Set it below recipe.epochs."
        )


def _check_order(order: int, accumulate: int) -> None:
    if order == 2 and accumulate > 1:
        raise ConfigError(
            f"recipe.accumulate={accumulate}: strategy.order=2 differentiates through a step on the whole "
            "batch, which has no parts. Set recipe.accumulate=1 or strategy.order=1; "
            "supernet.checkpoint=true saves memory as well."
        )


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


def gradients_of(loss: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
    """Zeros for what the loss does not hang on; sampled gates may let nothing of an image through."""
    if not loss.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    return torch.autograd.grad(loss, parameters, materialize_grads=True)


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
