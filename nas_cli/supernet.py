"""A supernet: one network that holds every architecture of a space and computes what the gates say."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_cli.architecture import Architecture


@dataclass(frozen=True, slots=True)
class Gate:
    """How one state (or layer) of a supernet weighs its candidates.

    `weights` has shape (rows, candidates), one row an edge that leaves the state. `active` lists for
    each row the candidates to run; it is known on the host, so that no device is asked what to run. A
    row may be empty: nothing of that edge is computed. The weight of a candidate that is not active
    is not read.
    """

    weights: Tensor
    active: tuple[tuple[int, ...], ...]

    @staticmethod
    def soft(weights: Tensor) -> "Gate":
        """Every candidate runs: DARTS' relaxation."""
        rows, candidates = weights.shape
        return Gate(weights, (tuple(range(candidates)),) * rows)

    @staticmethod
    def one_hot(picks: Sequence[int | None], candidates: int, like: Tensor) -> "Gate":
        """One candidate a row runs with weight 1; None leaves the row empty. `like`: device and dtype."""
        weights = torch.zeros(len(picks), candidates)
        for row, pick in enumerate(picks):
            if pick is not None:
                weights[row, pick] = 1.0
        active = tuple(() if pick is None else (pick,) for pick in picks)
        return Gate(weights.to(device=like.device, dtype=like.dtype), active)


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetOptions:
    """How a supernet is built; a space refuses what it cannot do with `UnsupportedError`.

    `plain` computes every candidate by its definition, one at a time: the slow form that tests
    hold the fast one to.
    """

    plain: bool = False


class Supernet(nn.Module, ABC):
    """What a space's supernet owes its strategies; it knows none: a relaxation is a way to compute gates.

    `gate_shapes[k]` is the shape (rows, candidates) of the weights of gate k; `candidates[k]` names the
    candidates of its rows, `none` among them where an edge may be left out.
    """

    gate_shapes: tuple[tuple[int, int], ...]
    candidates: tuple[tuple[str, ...], ...]

    @abstractmethod
    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        """Logits (images, classes) of images (images, channels, size, size) under the gates."""

    @abstractmethod
    def gates_of(self, architecture: Architecture) -> list[Gate]:
        """One-hot gates under which the supernet computes that architecture."""

    @abstractmethod
    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        """The architecture that normalised gate weights (never logits) point at, by the paper's rule."""

    @abstractmethod
    def cut_out(self, architecture: Architecture) -> nn.Module:
        """That path as a module (images -> logits) with a copy of its weights and batch statistics."""
