"""A space, images and an evaluator whose best architecture is known, for the contract tests of strategies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_cli.architecture import Architecture, Choice
from nas_cli.data import ImageData, ImageInfo, Images
from nas_cli.errors import UnsupportedError
from nas_cli.evaluator import Evaluation, Evaluator
from nas_cli.recipe import Recipe
from nas_cli.run import Run
from nas_cli.seeds import seed_for
from nas_cli.space import CellGraph, SearchSpace
from nas_cli.strategy import Problem
from nas_cli.supernet import Gate, Supernet, SupernetOptions
from nas_cli.trainer import Trainer

BEST = Architecture((2, 2, 2))
WIDE_BEST = Architecture((1, 3, 0, 2, 2, 0, 3, 1))
INFO = ImageInfo(channels=1, size=8, class_names=("dark", "bright"), mean=(0.5,), std=(0.25,), mirror=True)


class ToySpace(SearchSpace):
    """Three layers in a row, each of which loses the image, blurs it away by half, or keeps it."""

    choices = tuple(Choice(f"layer{k}.operation", ("lose", "weaken", "keep")) for k in range(3))

    def __init__(self, info: ImageInfo) -> None:
        self.info = info

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        return _Fixed(ToySupernet(self), architecture)

    def build_supernet(self, options: SupernetOptions) -> Supernet:
        return ToySupernet(self)

    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        return {"toy": CellGraph(("in",), (("in", "out", "keep"),), ("out",))}


class WideToySpace(ToySpace):
    """Eight choices of four options, too many to meet the best by chance; it has no supernet."""

    choices = tuple(Choice(f"choice{k}", ("a", "b", "c", "d")) for k in range(8))

    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(self.info.size**2, self.info.num_classes))

    def build_supernet(self, options: SupernetOptions) -> Supernet:
        raise UnsupportedError("This space has no supernet.")


class ToySupernet(Supernet):
    def __init__(self, space: ToySpace) -> None:
        super().__init__()
        self.gate_shapes = ((1, 3),) * 3
        self.candidates = (("lose", "weaken", "keep"),) * 3
        self.classifier = nn.Linear(1, space.info.num_classes)

    def forward(self, images: Tensor, gates: Sequence[Gate]) -> Tensor:
        state = images.mean((1, 2, 3)).unsqueeze(1)
        for gate in gates:
            row = gate.weights[0]
            state = row[1] * 0.5 * state + row[2] * state
        logits: Tensor = self.classifier(state)
        return logits

    def gates_of(self, architecture: Architecture) -> list[Gate]:
        return [Gate.one_hot([pick], 3, self.classifier.weight) for pick in architecture.picks]

    def discretise(self, weights: Sequence[Tensor]) -> Architecture:
        return Architecture(tuple(int(rows[0].argmax()) for rows in weights))

    def cut_out(self, architecture: Architecture) -> nn.Module:
        return _Fixed(self, architecture)


class _Fixed(nn.Module):
    def __init__(self, supernet: ToySupernet, architecture: Architecture) -> None:
        super().__init__()
        self.supernet = supernet
        self.architecture = architecture

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.supernet(images, self.supernet.gates_of(self.architecture))
        return logits


class CountBest(Evaluator):
    """The share of the picks that are the best architecture's."""

    def __init__(self, best: Architecture = BEST) -> None:
        self.best = best

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        right = sum(pick == best for pick, best in zip(architecture.picks, self.best.picks, strict=True))
        return Evaluation(right / len(self.best.picks), seconds=1.0)

    def check_fidelity(self, fidelity: int) -> None:
        """It is the same at any."""


class Uninformative(CountBest):
    """A score that has nothing to do with the picks: what is left of a strategy that cannot learn from it."""

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        return Evaluation(seed_for(0, *architecture.picks) / 2**63, seconds=1.0)


def toy_images(count: int = 64) -> ImageData:
    """Half of the images are bright, half are dark."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 1, 8, 8), generator=draws)
    pixels = (noise + 100 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    images = Images(pixels, labels)
    return ImageData(INFO, images, images)


def toy_problem(seed: int = 0, **recipe: int | float) -> Problem:
    settings: dict[str, int | float] = {
        "epochs": 20,
        "batch_size": 16,
        "shift": 0,
        "learning_rate": 0.3,
        **recipe,
    }
    return Problem(
        space=ToySpace(INFO),
        data=toy_images(),
        recipe=Recipe(**settings),  # type: ignore[arg-type]
        trainer=Trainer(device="cpu"),
        supernet=SupernetOptions(),
        seed=seed,
    )


def toy_run(folder: Path, config: Mapping[str, object] | None = None) -> Run:
    return Run.create(folder, "search", {"seed": 0, "strategy": {"_target_": "toy.Toy"}})
