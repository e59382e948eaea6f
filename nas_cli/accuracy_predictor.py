"""How good architectures are, predicted from the scores of others: Gaussian processes over encodings."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError
from nas_cli.space import CellGraph, SearchSpace

Bag = Mapping[tuple[str, ...], float]
"""Words and how much of each: one part of an encoding. Words that a bag lacks count zero."""
Array = NDArray[np.float64]

MIN_OBSERVATIONS = 5
# A feature that all observed share tells nothing: its rounding errors are not to be blown up.
SMALLEST_WIDTH = 1e-9
# The blocks of an encoding of which each process has one; it has all others too.
LEADING = ("picks", "paths")
# Longer paths are shared by too few architectures to tell anything, and a long chain is one path.
LONGEST_PATH = 6
INVERSE_SCALES = (0.125, 0.25, 0.5, 1.0, 2.0)
NOISES = (0.003, 0.01, 0.03, 0.1, 0.3)
# The grid is searched on this many observations at most: its cost grows with their cube.
MOST_FOR_THE_GRID = 256


def encode(space: SearchSpace, architecture: Architecture) -> dict[str, Bag]:
    """What the predictor sees of an architecture of any space, all spellings of one network alike.

    `picks`: the option of each choice. `operations`: how often each label stands on a path from an
    input of a cell to an output. `paths`: the sequences of labels from an input to an output, the path
    encoding of BANANAS (arXiv:1910.11858).
    """
    architecture = space.canonical(architecture)
    cells = space.cells(architecture)
    return {
        "picks": {(name, str(option)): 1.0 for name, option in space.options_of(architecture).items()},
        "operations": Counter((kind, label) for kind, cell in cells.items() for label in used_labels(cell)),
        "paths": {(kind, *path): 1.0 for kind, cell in cells.items() for path in label_paths(cell)},
    }


def used_labels(cell: CellGraph) -> list[str]:
    """The label of each edge that lies on a path from an input to an output."""
    forward = [(source, target) for source, target, _ in cell.edges]
    begun = _reached(cell.inputs, forward)
    ending = _reached(cell.outputs, [(target, source) for source, target in forward])
    return [label for source, target, label in cell.edges if source in begun and target in ending]


def _reached(starts: Iterable[str], edges: Sequence[tuple[str, str]]) -> set[str]:
    reached: set[str] = set()
    found = set(starts)
    while found:
        reached |= found
        found = {target for source, target in edges if source in found} - reached
    return reached


def label_paths(cell: CellGraph) -> set[tuple[str, ...]]:
    """(input, label, ..., label) of each way from an input to an output, of at most LONGEST_PATH labels."""
    ways: set[tuple[str, tuple[str, ...]]] = {(node, (node,)) for node in cell.inputs}
    paths: set[tuple[str, ...]] = set()
    for _ in range(LONGEST_PATH):
        ways = {
            (target, (*path, label))
            for node, path in ways
            for source, target, label in cell.edges
            if source == node
        }
        paths |= {path for node, path in ways if node in cell.outputs}
    return paths


class AccuracyPredictor:
    """The mean of two Gaussian processes: one over picks and operations, one over paths and operations.

    It predicts ranks: the observed scores become normal quantiles, so that one network that does not
    learn at all weighs no more than one that is merely the worst. `features` gives more numbers of an
    architecture by name, which both processes see, such as zero-cost scores.
    """

    def __init__(
        self,
        space: SearchSpace,
        features: Callable[[Architecture], Mapping[str, float]] = lambda architecture: {},
    ) -> None:
        self.space, self.features = space, features
        self._encoding = lru_cache(maxsize=4096)(self._encode)

    def fit(self, architectures: Sequence[Architecture], scores: Sequence[float]) -> None:
        """Learn from observed scores alone. Raises ConfigError below MIN_OBSERVATIONS."""
        check_observations(
            len(architectures), f"The predictor has {len(architectures)} observed architectures"
        )
        self.observed, self.scores = list(architectures), np.sort(np.asarray(scores, np.float64))
        self.quantiles = normal_quantiles(scores)
        distances = self._distances(self.observed)
        self.widths = {
            block: max(float(distance.mean()), SMALLEST_WIDTH) for block, distance in distances.items()
        }
        self.processes = {
            leading: GaussianProcess(self._joined(distances, leading), self.quantiles) for leading in LEADING
        }

    def predict(self, architectures: Sequence[Architecture]) -> tuple[Array, Array]:
        """Mean and standard deviation, in normal quantiles of the observed scores: 0 is their median."""
        distances = self._distances(architectures)
        parts = [
            process.predict(self._joined(distances, leading)) for leading, process in self.processes.items()
        ]
        means, deviations = (np.stack(values) for values in zip(*parts, strict=True))
        mean = means.mean(0)
        spread = (deviations**2 + (means - mean) ** 2).mean(0)
        return mean, np.sqrt(spread)

    def predict_scores(self, architectures: Sequence[Architecture]) -> Array:
        """The mean in units of the scores, between the lowest and the highest observed."""
        return np.interp(self.predict(architectures)[0], np.sort(self.quantiles), self.scores)

    def _distances(self, architectures: Sequence[Architecture]) -> dict[str, Array]:
        """For each block of the encoding, squared distances (architectures, observed)."""
        rows, columns = ([self._encoding(a) for a in group] for group in (architectures, self.observed))
        return {
            block: squared_distances([row[block] for row in rows], [column[block] for column in columns])
            for block in columns[0]
        }

    def _encode(self, architecture: Architecture) -> dict[str, Bag]:
        numbers = self.features(architecture)
        return encode(self.space, architecture) | {name: {(name,): numbers[name]} for name in numbers}

    def _joined(self, distances: Mapping[str, Array], leading: str) -> Array:
        """The sum over one process' blocks, each in units of its mean among the observed."""
        blocks = [block for block in distances if block == leading or block not in LEADING]
        joined: Array = np.sum([distances[block] / self.widths[block] for block in blocks], axis=0)
        return joined


def check_observations(count: int, what: str) -> None:
    """Raises ConfigError where so many architectures are too few; `what` begins the sentence."""
    if count < MIN_OBSERVATIONS:
        raise ConfigError(
            f"{what}, fewer than the {MIN_OBSERVATIONS} that an accuracy predictor learns from. Give it more."
        )


def normal_quantiles(scores: Sequence[float]) -> Array:
    """Each score's rank as a quantile of the standard normal distribution; equal scores share their mean."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    normal = NormalDist()
    quantiles: Array = np.array([normal.inv_cdf(share) for share in middle / len(inverse)])[inverse]
    return quantiles


def squared_distances(rows: Sequence[Bag], columns: Sequence[Bag]) -> Array:
    """(rows, columns) squared Euclidean distances between bags."""
    words = {word: place for place, word in enumerate({word: 0 for bag in [*rows, *columns] for word in bag})}
    left, right = (_table(bags, words) for bags in (rows, columns))
    center = right.mean(0)  # for precision: the differences of large features may be small
    left, right = left - center, right - center
    squares = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
    distances: Array = np.maximum(squares, 0.0)
    return distances


def _table(bags: Sequence[Bag], words: Mapping[tuple[str, ...], int]) -> Array:
    table = np.zeros((len(bags), len(words)))
    for row, bag in enumerate(bags):
        table[row, [words[word] for word in bag]] = list(bag.values())
    return table


class GaussianProcess:
    """Zero mean, kernel exp(-inverse scale * squared distance), observed with noise.

    Inverse scale and noise are those of a grid with the greatest evidence; the amplitude has a closed form.
    `distances` (n, n) are squared, `targets` (n,).
    """

    def __init__(self, distances: Array, targets: Array) -> None:
        every = -(-len(targets) // MOST_FOR_THE_GRID)
        self.inverse_scale, noise = _greatest_evidence(distances[::every, ::every], targets[::every])
        kernel = np.exp(-self.inverse_scale * distances) + noise * np.eye(len(targets))
        self.inverse = np.linalg.inv(kernel)
        self.weights = self.inverse @ targets
        self.amplitude = max(float(targets @ self.weights) / len(targets), 1e-12)

    def predict(self, distances: Array) -> tuple[Array, Array]:
        """Mean and standard deviation without noise; `distances` (m, n) are to the observed."""
        kernel = np.exp(-self.inverse_scale * distances)
        left = 1.0 - np.einsum("mn,mn->m", kernel @ self.inverse, kernel)
        return kernel @ self.weights, np.sqrt(self.amplitude * np.maximum(left, 1e-9))


def _greatest_evidence(distances: Array, targets: Array) -> tuple[float, float]:
    """One eigendecomposition serves all noises of an inverse scale."""
    found = []
    for inverse_scale in INVERSE_SCALES:
        values, vectors = np.linalg.eigh(np.exp(-inverse_scale * distances))
        squares = (vectors.T @ targets) ** 2
        for noise in NOISES:
            spectrum = np.maximum(values, 0.0) + noise
            amplitude = max(float((squares / spectrum).sum()) / len(targets), 1e-12)
            evidence = -len(targets) * np.log(amplitude) - np.log(spectrum).sum()
            found.append((float(evidence), inverse_scale, noise))
    return max(found)[1:]
