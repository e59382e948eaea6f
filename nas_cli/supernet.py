"""A supernet: one network that holds every architecture of a space and computes what the gates say."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from nas_cli.architecture import Architecture
from nas_cli.cost import evaluation_mode
from nas_cli.data import ImageInfo
from nas_cli.errors import UnsupportedError


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


Form = Literal["side_by_side", "elastic"]


@dataclass(frozen=True, slots=True)
class SupernetOptions:
    """How a supernet is built; a space refuses what it cannot do with `UnsupportedError`.

    What a strategy's paper needs comes first. `partial_channels` K: the candidates see one in K of the
    channels and the rest passes by, scaled by the sum of the row's weights (arXiv:1907.05737). `form`:
    candidates with weights of their own (`side_by_side`) or cut from one set of weights (`elastic`); None is
    the space's own.

    The rest is the user's. `plain` computes every candidate by its definition, one at a time: the slow
    form that tests hold the fast one to. `checkpoint` keeps of each cell (or layer of a chain) only what goes
    in and out, and computes the rest again in the backward pass: less memory, more time.
    """

    partial_channels: int = 1
    form: Form | None = None
    _: KW_ONLY
    plain: bool = False
    checkpoint: bool = False

    def form_of(self, *offered: Form) -> Form:
        """The wanted form, or the first one that the space offers. Raises UnsupportedError on another."""
        if self.form is None or self.form in offered:
            return self.form or offered[0]
        raise UnsupportedError(_OTHER_FORM[self.form])

    def refuse_partial_channels(self) -> None:
        """For a space whose candidates see all channels. Raises UnsupportedError where they shall not."""
        if self.partial_channels > 1:
            raise UnsupportedError(
                f"strategy.partial_channels={self.partial_channels}: in this space every candidate sees all "
                "channels. Choose space=darts or space=nasbench201, or strategy=darts."
            )


_OTHER_FORM: dict[Form, str] = {
    "elastic": "This strategy needs elastic layers, and in this space each candidate has weights of its own. "
    "Choose space=mobilenet or space=macro.",
    "side_by_side": "This strategy needs candidates with weights of their own, and in this space all are cut "
    "from one set of weights. Choose another space, such as space=darts or space=mobilenet.",
}


Pick = tuple[int, int, int]
"""A candidate of a row of a gate: (gate, row, candidate)."""


@dataclass(frozen=True, slots=True)
class Part:
    """What the networks of a space have where all of `picks` are made: so often that module.

    `module` is as `SearchSpace.build` makes it, and reads tensors of that shape.
    """

    picks: tuple[Pick, ...]
    module: nn.Module
    shape: tuple[int, ...]
    count: int = 1


class Supernet(nn.Module, ABC):
    """What a space's supernet owes its strategies; it knows none: a relaxation is a way to compute gates.

    `gate_shapes[k]` is the shape (rows, candidates) of the weights of gate k; `candidates[k]` names the
    candidates of its rows, `none` among them where an edge may be left out.
    """

    gate_shapes: tuple[tuple[int, int], ...]
    candidates: tuple[tuple[str, ...], ...]

    @property
    def row_groups(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Which rows (gate, row) are summed at one node; elsewhere every row is a group of its own."""
        return tuple(((gate, row),) for gate, (rows, _) in enumerate(self.gate_shapes) for row in range(rows))

    @property
    def row_names(self) -> tuple[tuple[str, ...], ...]:
        """What the rows of each gate are called, for people: `kind.place`, or a number where nothing is."""
        return tuple(
            tuple(f"gate{gate}" if rows == 1 else f"gate{gate}.row{row}" for row in range(rows))
            for gate, (rows, _) in enumerate(self.gate_shapes)
        )

    def candidate_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        """The modules, all over the supernet, that run where this candidate is picked.

        Raises UnsupportedError where candidates are no modules of their own.
        """
        raise UnsupportedError(
            f"The candidates of {type(self).__name__} are no modules of their own: there is nothing to time. "
            "Choose a space whose candidates stand side by side, such as space=darts."
        )

    def final_modules(self, gate: int, row: int, candidate: int) -> list[nn.Module]:
        """What `SearchSpace.build` has in place of each of `candidate_modules`: the same, or new ones."""
        return self.candidate_modules(gate, row, candidate)

    def parts(self, info: ImageInfo, batch_size: int) -> Iterator[Part]:
        """All that some networks have and others have not, for the images of one batch.

        Raises UnsupportedError where candidates are no modules of their own.
        """
        shapes = self.input_shapes(info, batch_size)
        for gate, (rows, count) in enumerate(self.gate_shapes):
            for row, candidate in itertools.product(range(rows), range(count)):
                modules = self.candidate_modules(gate, row, candidate)
                final = zip(modules, self.final_modules(gate, row, candidate), strict=True)
                for place, module in {id(module): alone for module, alone in final}.items():
                    if place in shapes:
                        yield Part(((gate, row, candidate),), module, shapes[place])

    def input_shapes(self, info: ImageInfo, batch_size: int) -> dict[int, tuple[int, ...]]:
        """{id(module): the shape it reads} of every module that runs when all gates are open."""
        shapes: dict[int, tuple[int, ...]] = {}

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if isinstance(inputs[0], Tensor):
                shapes[id(module)] = tuple(inputs[0].shape)

        hooks = [module.register_forward_pre_hook(note) for module in self.modules()]
        device = next(self.parameters()).device
        images = torch.zeros(batch_size, info.channels, info.size, info.size, device=device)
        gates = [Gate.soft(torch.full(shape, 1 / shape[1], device=device)) for shape in self.gate_shapes]
        with evaluation_mode(self), torch.no_grad():
            self(images, gates)
        for hook in hooks:
            hook.remove()
        return shapes

    def sort_channels(self, narrowest: int | None = None) -> None:
        """Bring the important ones first of the channels that narrower candidates share with wider ones.

        `narrowest` is the smallest option of width that was trained so far (None: only the largest was): it
        and all larger ones compute what they did. Nothing is done where channels are not shared.
        """

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
