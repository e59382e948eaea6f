"""ProxylessNAS: binary gates, two candidates compete, latency in the loss (arXiv:1812.00332)."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from nas_cli.data import Batch
from nas_cli.errors import ConfigError
from nas_cli.latency import LatencyTable
from nas_cli.recipe import NonNegative, Positive, Share
from nas_cli.strategies.darts import Darts, frozen, gradients_of
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate
from nas_cli.training import Descent, mean_of


class Proxyless(Darts):
    """One path is open when the weights are trained; two compete when the architecture learns (section 3.2).

    Two candidates of each row are drawn by its softmax. One of them is open with weight 1, the other is
    computed with weight 0: so the loss has a gradient for both binary gates, which goes on through the
    softmax of the two (equation 4). Afterwards their logits are moved by one constant, so that the
    probabilities of the candidates that were not drawn stay as they were.

    With a `latency_table` the expected latency of the network is in the loss (section 3.3): `add` adds
    `latency_weight` times its excess over `target_ms`, as a share of it; `multiply` multiplies the loss by
    `latency_weight` times (log latency / log target) to the power of `latency_exponent`, as the authors'
    code does. Its gradient moves the two drawn candidates only.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        learning_rate: Positive = 6e-3,
        betas: tuple[Share, Share] = (0.0, 0.999),
        weight_decay: NonNegative = 0.0,
        warmup_epochs: Annotated[int, Field(ge=0)] = 0,
        latency_table: str | None = None,
        latency_loss: Literal["add", "multiply"] = "add",
        latency_weight: NonNegative = 0.1,
        latency_exponent: Positive = 0.6,
        target_ms: Positive | None = None,
    ) -> None:
        super().__init__(
            replace(problem, supernet=replace(problem.supernet, form="side_by_side")),
            learning_rate=learning_rate,
            betas=betas,
            weight_decay=weight_decay,
            warmup_epochs=warmup_epochs,
        )
        self.latency_loss = latency_loss
        self.latency_weight, self.latency_exponent = latency_weight, latency_exponent
        self.table = _read_table(problem, latency_table)
        self.target_ms = _check_target(target_ms, self.table, latency_loss)

    def gates(self) -> list[Gate]:
        """One candidate of each row, drawn by its probability."""
        return [
            Gate.one_hot(self._draw(rows.cpu(), 1).flatten().tolist(), rows.shape[1], rows)
            for rows in self.gate_weights()
        ]

    def update_architecture(self, train: Batch, valid: Batch, descent: Descent) -> None:
        if self.warming_up:
            return
        pairs = [self._draw(rows.cpu(), min(2, rows.shape[1])) for rows in self.gate_weights()]
        binary = [self._open_one(pair, rows) for pair, rows in zip(pairs, self.logits, strict=True)]
        gates = [
            Gate(weights, tuple(map(tuple, pair.tolist())))
            for weights, pair in zip(binary, pairs, strict=True)
        ]
        with frozen(self.supernet):
            passes = [self._pass(part, gates, binary) for part in self.problem.recipe.parts(valid)]
        loss, *for_gates = mean_of(passes)
        places = [pair.to(loss.device) for pair in pairs]
        gradients = [
            _through_softmax(rows.detach(), pair, gradient)
            for rows, pair, gradient in zip(self.logits, places, for_gates, strict=True)
        ]
        self._step(places, self._with_latency(loss, gradients, places))

    def _pass(self, valid: Batch, gates: Sequence[Gate], binary: Sequence[Tensor]) -> Sequence[Tensor]:
        """The loss, then the gradients of the gates."""
        loss, _ = self.validate(valid, gates)
        return loss.detach(), *gradients_of(loss, binary)

    def _draw(self, shares: Tensor, count: int) -> Tensor:
        """`count` different candidates of each row (rows, count), by their shares.

        Raises DivergedError where they are no longer finite.
        """
        if not torch.isfinite(shares).all():
            raise self.descent.diverged("The architecture's probabilities are no longer finite")
        return torch.multinomial(shares, count, generator=self.draws)

    def _open_one(self, pair: Tensor, rows: Tensor) -> Tensor:
        """One of the two is open: zeros and ones (rows, candidates), which take a gradient."""
        shares = torch.gather(rows.detach().cpu(), 1, pair).softmax(1)
        opened = torch.gather(pair, 1, self._draw(shares, 1))
        binary = torch.zeros(rows.shape).scatter_(1, opened, 1.0)
        return binary.to(rows.device, rows.dtype).requires_grad_()

    def _with_latency(
        self, loss: Tensor, gradients: Sequence[Tensor], pairs: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """The gradients of the loss with the expected latency in it."""
        if self.table is None or self.target_ms is None:
            return gradients
        expected = self.table.expected(self.weights())
        if self.latency_loss == "add":
            scale = torch.ones_like(loss)
            part = self.latency_weight * (expected - self.target_ms) / self.target_ms
        else:
            ratio = expected.log() / math.log(self.target_ms)
            factor = self.latency_weight * ratio**self.latency_exponent
            scale, part = factor.detach(), loss * factor
        for_latency = torch.autograd.grad(part, self.logits)
        return [
            scale * gradient + torch.zeros_like(slope).scatter(1, pair, torch.gather(slope, 1, pair))
            for gradient, slope, pair in zip(gradients, for_latency, pairs, strict=True)
        ]

    @torch.no_grad()
    def _step(self, pairs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Descend; then each pair together is as likely as before."""
        before = [
            torch.gather(rows, 1, pair).logsumexp(1) for rows, pair in zip(self.logits, pairs, strict=True)
        ]
        for rows, gradient in zip(self.logits, gradients, strict=True):
            rows.grad = gradient
        self.optimizer.step()
        for rows, pair, total in zip(self.logits, pairs, before, strict=True):
            moved = torch.gather(rows, 1, pair)
            rows.scatter_(1, pair, moved + (total - moved.logsumexp(1))[:, None])


def _through_softmax(logits: Tensor, pair: Tensor, for_gates: Tensor) -> Tensor:
    """The gradient of the logits (rows, candidates) from that of the gates, through the softmax of two."""
    shares = torch.gather(logits, 1, pair).softmax(1)
    slopes = torch.gather(for_gates, 1, pair)
    through = shares * (slopes - (shares * slopes).sum(1, keepdim=True))
    return torch.zeros_like(logits).scatter_(1, pair, through)


def _read_table(problem: Problem, path: str | None) -> LatencyTable | None:
    if path is None:
        return None
    table = LatencyTable.read(path)
    table.check(problem.space, problem.data.info, path)
    return table


def _check_target(target_ms: float | None, table: LatencyTable | None, latency_loss: str) -> float | None:
    if table is None and target_ms is not None:
        raise ConfigError(
            f"strategy.target_ms={target_ms} has no effect without strategy.latency_table: the file that "
            "`nas latency` writes."
        )
    if table is not None and target_ms is None:
        raise ConfigError("strategy.latency_table needs strategy.target_ms: the latency to aim at.")
    if latency_loss == "multiply" and target_ms is not None and target_ms <= 1:
        raise ConfigError(
            f"strategy.target_ms={target_ms} must be above 1 with strategy.latency_loss=multiply, which "
            "divides by its logarithm. Make a table with a larger batch, or set strategy.latency_loss=add."
        )
    return target_ms
