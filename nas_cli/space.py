"""A search space: a tuple of independent choices, every combination of which is a network."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from nas_cli.architecture import Architecture, Choice, GenotypeText, Json, Option
from nas_cli.errors import GenotypeError, UnsupportedError
from nas_cli.supernet import Supernet, SupernetOptions


@dataclass(frozen=True, slots=True)
class CellGraph:
    """A cell to be drawn: `edges` are (source, target, label); `outputs` are the nodes joined at the end."""

    inputs: tuple[str, ...]
    edges: tuple[tuple[str, str, str], ...]
    outputs: tuple[str, ...]


class SearchSpace(ABC):
    """What a space owes the rest of the program.

    A space is constructed with the images it is for (`ImageInfo`: channels, size, classes) and its own
    settings. Strategies see `choices` alone; `build` and `build_supernet` are called by evaluators
    and training loops. Initial weights come from torch's global generator: callers seed it
    (`nas_cli.seeds.seeded`).
    """

    choices: tuple[Choice, ...]

    @abstractmethod
    def build(self, architecture: Architecture, *, auxiliary_head: bool = False) -> nn.Module:
        """That one network as published, freshly initialised: images -> logits.

        With `auxiliary_head`, the network in training mode returns (logits, auxiliary logits).
        Raises UnsupportedError where the space's network has no such head.
        """

    @abstractmethod
    def build_supernet(self, options: SupernetOptions) -> Supernet:
        """All architectures with shared weights. Raises UnsupportedError naming what would work."""

    @abstractmethod
    def cells(self, architecture: Architecture) -> dict[str, CellGraph]:
        """What `nas derive` draws: a graph for each kind of cell."""

    def canonical(self, architecture: Architecture) -> Architecture:
        """One spelling for each distinct network; the same architecture where all spellings differ."""
        return architecture

    def parse(self, text: GenotypeText) -> Architecture:
        """Read the paper's own text form. Raises GenotypeError on a wrong one."""
        raise UnsupportedError(
            f"{type(self).__name__} has no text form; give the genotype as the JSON file of a search."
        )

    def spell(self, architecture: Architecture) -> str:
        """The paper's own text form where there is one, `name=option` pairs elsewhere."""
        return " ".join(f"{name}={option}" for name, option in self.options_of(architecture).items())

    @property
    def size(self) -> int:
        """The number of combinations of picks; distinct networks may be fewer (`canonical`)."""
        return math.prod(len(choice.options) for choice in self.choices)

    def sample(self, rng: random.Random) -> Architecture:
        """A uniform sample over the picks."""
        return Architecture(tuple(rng.randrange(len(choice.options)) for choice in self.choices))

    def mutate(self, parent: Architecture, rng: random.Random) -> Architecture:
        """The parent with exactly one pick changed to another option."""
        mutable = [k for k, choice in enumerate(self.choices) if len(choice.options) > 1]
        if not mutable:
            raise UnsupportedError("This space holds one architecture: there is nothing to mutate.")
        k = rng.choice(mutable)
        pick = rng.randrange(len(self.choices[k].options) - 1)
        pick += pick >= parent.picks[k]
        return Architecture((*parent.picks[:k], pick, *parent.picks[k + 1 :]))

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """All that differ in exactly one pick."""
        picks = architecture.picks
        return [
            Architecture((*picks[:k], other, *picks[k + 1 :]))
            for k, choice in enumerate(self.choices)
            for other in range(len(choice.options))
            if other != picks[k]
        ]

    def options_of(self, architecture: Architecture) -> dict[str, Option]:
        """The readable form: {choice name: option}."""
        return {
            choice.name: choice.options[pick]
            for choice, pick in zip(self.choices, architecture.picks, strict=True)
        }

    def architecture_at(self, picks: Sequence[Json]) -> Architecture:
        """Of the number of one option a choice. Raises GenotypeError where these are no such numbers."""
        sizes = [len(choice.options) for choice in self.choices]
        numbers = tuple(pick for pick in picks if isinstance(pick, int))
        fits = len(picks) == len(numbers) == len(sizes)
        if fits and all(0 <= pick < size for pick, size in zip(numbers, sizes, strict=True)):
            return Architecture(numbers)
        raise GenotypeError(
            f"{list(picks)} is no architecture of this space: it has {len(sizes)} choices, with "
            f"{min(sizes)} to {max(sizes)} options, which are counted from 0."
        )

    def architecture_of(self, options: Mapping[str, Option]) -> Architecture:
        """Read the form that `options_of` writes. Raises GenotypeError naming the choice that is wrong."""
        self._check_names(options)
        return Architecture(tuple(_pick(choice, options[choice.name]) for choice in self.choices))

    def _check_names(self, options: Mapping[str, Option]) -> None:
        names = {choice.name for choice in self.choices}
        if missing := sorted(names - options.keys()):
            raise GenotypeError(
                f"The genotype does not say what to pick for {missing[0]!r} "
                f"({len(missing)} of this space's {len(names)} choices are missing). {_OF_ANOTHER}"
            )
        if unknown := sorted(options.keys() - names):
            raise GenotypeError(
                f"The genotype picks {unknown[0]!r}, which is no choice of this space "
                f"({len(unknown)} such names). {_OF_ANOTHER}"
            )


def ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    """For the annotation of a list of options: pydantic says what it must be where it raises ValueError."""
    if list(values) != sorted(set(values)):
        raise ValueError("in ascending order, none twice")
    return values


_OF_ANOTHER = (
    "It is of another space, or of this one with other settings: a genotype file brings its own, "
    "so leave out those space.* that change the choices."
)


def _pick(choice: Choice, option: Option) -> int:
    for index, allowed in enumerate(choice.options):
        if allowed == option and type(allowed) is type(option):
            return index
    allowed_options = ", ".join(str(allowed) for allowed in choice.options)
    raise GenotypeError(f"Choice {choice.name!r} has no option {option!r}; it has {allowed_options}.")
