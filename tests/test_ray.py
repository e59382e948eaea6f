"""Candidates that Ray scores: the same search, whatever becomes of its machines."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import pytest

from nas_cli.architecture import Architecture
from nas_cli.errors import ConfigError, TrainingError
from nas_cli.evaluator import Evaluation
from nas_cli.executors.serial import Serial
from nas_cli.strategies.evolution import Evolution
from tests.test_executors import Dying, Refusing, searched
from tests.toy import WIDE_BEST, CountBest

pytest.importorskip("ray", reason="ray is not installed (pip install 'nas-cli[ray]')")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of Ray's own
    pytest.mark.slow,
]
EVOLUTION = partial(Evolution, num_evaluations=30)


class Cluster(Protocol):
    address: str

    def add_node(self, *, num_cpus: int) -> object: ...

    def remove_node(self, node: object, *, allow_graceful: bool) -> bool: ...


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One machine of one thread; a Ray cannot be started in milliseconds, so the tests share it."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    made.shutdown()


@dataclass
class Slow(CountBest):
    """Takes its time, and leaves a line in a file when it starts."""

    file: Path

    def __post_init__(self) -> None:
        super().__init__(WIDE_BEST)

    def evaluate(self, architecture: Architecture, fidelity: int | None = None) -> Evaluation:
        with self.file.open("a") as file:
            file.write("started\n")
        time.sleep(0.3)
        return super().evaluate(architecture, fidelity)


def test_a_machine_that_is_lost_costs_time_alone(
    cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from nas_cli.executors.ray import Ray

    expected = searched(EVOLUTION, Serial(in_flight=4))
    file = tmp_path / "started"
    second = cluster.add_node(num_cpus=2)
    killing = threading.Thread(
        target=_after, args=(file, 12, partial(cluster.remove_node, second, allow_graceful=False))
    )
    killing.start()
    with caplog.at_level("WARNING"):
        found = searched(EVOLUTION, Ray(address=cluster.address, in_flight=4), partial(Slow, file))
    killing.join()
    assert found == expected
    assert "A worker died" in caplog.text


def _after(file: Path, lines: int, action: Callable[[], object]) -> None:
    while not file.exists() or len(file.read_text().splitlines()) < lines:
        time.sleep(0.05)
    action()


def test_a_worker_that_is_killed_is_replaced(cluster: Cluster, tmp_path: Path) -> None:
    from nas_cli.executors.ray import Ray

    expected = searched(EVOLUTION, Serial(in_flight=4))
    make = partial(Dying, tmp_path / "died")
    assert searched(EVOLUTION, Ray(address=cluster.address, in_flight=4), make) == expected
    assert (tmp_path / "died").exists()


def test_errors_in_workers_are_told(cluster: Cluster, tmp_path: Path) -> None:
    from nas_cli.executors.ray import Ray

    with pytest.raises(TrainingError, match=r"^The loss is not finite\.$"):
        searched(EVOLUTION, Ray(address=cluster.address), Refusing)
    make = partial(Dying, tmp_path / "died", always=True)
    with pytest.raises(TrainingError, match="3 workers in a row died"):
        searched(EVOLUTION, Ray(address=cluster.address), make)


def test_machines_that_are_too_small_or_not_there_are_refused(cluster: Cluster) -> None:
    from nas_cli.executors.ray import Ray

    with pytest.raises(ConfigError, match=r"executor\.threads=64 executor\.gpus=0: no machine of the Ray"):
        searched(EVOLUTION, Ray(address=cluster.address, threads=64))
    with pytest.raises(ConfigError, match=r"executor\.address=127\.0\.0\.1:1: no Ray cluster answers there"):
        searched(EVOLUTION, Ray(address="127.0.0.1:1"))
