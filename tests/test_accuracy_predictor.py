import random

import numpy as np
import pytest

from nas_cli.accuracy_predictor import (
    AccuracyPredictor,
    Bag,
    GaussianProcess,
    encode,
    label_paths,
    normal_quantiles,
    squared_distances,
    used_labels,
)
from nas_cli.architecture import Architecture, GenotypeText
from nas_cli.catalogue import options
from nas_cli.errors import ConfigError
from nas_cli.space import CellGraph
from nas_cli.spaces.nasbench201 import NasBench201
from tests.test_spaces import make_space
from tests.toy import INFO, ToySpace

SPACE = NasBench201(INFO)
DIAMOND = CellGraph(
    inputs=("in",),
    edges=(("in", "a", "conv"), ("in", "b", "pool"), ("a", "out", "skip"), ("a", "dead", "conv")),
    outputs=("out",),
)


def test_the_paths_of_a_cell_are_the_labels_from_an_input_to_an_output() -> None:
    assert label_paths(DIAMOND) == {("in", "conv", "skip")}


def test_labels_on_no_path_are_not_counted() -> None:
    assert used_labels(DIAMOND) == ["conv", "skip"]


def test_an_encoding_has_picks_operations_and_paths() -> None:
    cell = SPACE.parse(
        GenotypeText("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|")
    )
    encoding = encode(SPACE, cell)
    assert encoding["picks"][("0->1", "nor_conv_3x3")] == 1
    assert len(encoding["picks"]) == 6
    assert encoding["operations"] == {("cell", "nor_conv_3x3"): 2, ("cell", "skip_connect"): 1}
    assert encoding["paths"] == {("cell", "0", "nor_conv_3x3", "skip_connect", "nor_conv_3x3"): 1}


@pytest.mark.parametrize("name", sorted(options("space")))
def test_every_space_can_be_encoded_and_predicted(name: str) -> None:
    space, rng = make_space(name), random.Random(0)
    architectures = [space.sample(rng) for _ in range(12)]
    predictor = AccuracyPredictor(space)
    predictor.fit(architectures[:8], [float(k) for k in range(8)])
    mean, deviation = predictor.predict(architectures)
    assert np.isfinite(mean).all()
    assert (deviation > 0).all()


def test_distances_count_the_words_that_only_one_bag_has() -> None:
    bags: list[Bag] = [{("a",): 1.0}, {("a",): 1.0, ("b",): 2.0}]
    assert squared_distances(bags, bags).tolist() == [[0, 4], [4, 0]]


def test_scores_become_quantiles_of_their_ranks() -> None:
    quantiles = normal_quantiles([90.0, 10.0, 91.0, 90.0])
    assert quantiles.tolist() == pytest.approx([0, -1.15035, 1.15035, 0], abs=1e-5)


def test_a_gaussian_process_interpolates_and_is_unsure_far_away() -> None:
    places = np.linspace(0, 3, 16)
    process = GaussianProcess((places[:, None] - places) ** 2, np.sin(places))
    mean, deviation = process.predict((np.array([1.1, 9.0])[:, None] - places) ** 2)
    assert mean[0] == pytest.approx(np.sin(1.1), abs=0.02)
    assert mean[1] == pytest.approx(0, abs=0.02)
    assert deviation[0] < 0.1 * deviation[1]


def test_it_ranks_architectures_that_it_has_not_seen() -> None:
    space = ToySpace(INFO)
    everything = [Architecture((a, b, c)) for a in range(3) for b in range(3) for c in range(3)]
    seen = random.Random(0).sample(everything, 15)
    unseen = [architecture for architecture in everything if architecture not in seen]
    predictor = AccuracyPredictor(space)
    predictor.fit(seen, [sum(architecture.picks) for architecture in seen])
    truth = np.array([sum(architecture.picks) for architecture in unseen])
    assert np.corrcoef(predictor.predict(unseen)[0], truth)[0, 1] > 0.9
    assert np.abs(predictor.predict_scores(unseen) - truth).mean() < 0.8


def test_features_tell_architectures_apart_that_look_alike() -> None:
    space = ToySpace(INFO)
    seen = [space.sample(random.Random(k)) for k in range(12)]
    hidden = {architecture: float(hash(architecture.picks) % 97) for architecture in seen}
    blind, told = AccuracyPredictor(space), AccuracyPredictor(space, lambda a: {"hidden": hidden[a]})
    scores = [hidden[architecture] for architecture in seen]
    for predictor in (blind, told):
        predictor.fit(seen, scores)
    errors = [np.abs(predictor.predict_scores(seen) - scores).mean() for predictor in (blind, told)]
    assert errors[1] < errors[0]


def test_a_feature_that_never_changes_changes_nothing() -> None:
    space = ToySpace(INFO)
    seen = [space.sample(random.Random(k)) for k in range(12)]
    means = []
    for predictor in (AccuracyPredictor(space), AccuracyPredictor(space, lambda _: {"same": 805.1234567})):
        predictor.fit(seen, [sum(architecture.picks) for architecture in seen])
        means.append(predictor.predict(seen)[0])
    assert means[0].tolist() == pytest.approx(means[1].tolist(), abs=1e-6)


def test_too_few_observations_are_refused() -> None:
    space = ToySpace(INFO)
    with pytest.raises(ConfigError, match="has 4 observed architectures, fewer than the 5"):
        AccuracyPredictor(space).fit([space.sample(random.Random(k)) for k in range(4)], [1.0, 2.0, 3.0, 4.0])


def test_hundreds_of_observations_are_learnt_from() -> None:
    rng = random.Random(0)
    seen = list({SPACE.sample(rng) for _ in range(600)})
    predictor = AccuracyPredictor(SPACE)
    predictor.fit(seen[:500], [sum(architecture.picks) for architecture in seen[:500]])
    truth = [sum(architecture.picks) for architecture in seen[500:]]
    assert np.corrcoef(predictor.predict(seen[500:])[0], truth)[0, 1] > 0.95
