"""Several processes that train together do what one process does with the whole batch."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch.multiprocessing.spawn import spawn

from nas_cli import ranks
from nas_cli.catalogue import options
from nas_cli.cli import main
from nas_cli.config import build
from nas_cli.data import Batch
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.network_training import NetworkTraining
from nas_cli.recipe import Recipe
from nas_cli.seeds import seeded
from nas_cli.spaces.mobilenet import MobileNet
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategy import Problem, Strategy
from nas_cli.supernet import SupernetOptions
from nas_cli.trainer import Trainer
from nas_cli.weight_sharing import WeightSharingStrategy
from tests.faults import ended, finish, nas, outcome, wait_for
from tests.test_pairs import SMALL_SEARCH, node_of
from tests.toy import INFO, toy_images

STRATEGIES = [
    name
    for name, file in options("strategy").items()
    if issubclass(get_class(str(OmegaConf.select(OmegaConf.load(file), "_target_"))), WeightSharingStrategy)
]
NUM_STEPS = 20


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# The same numbers


@contextmanager
def in_float64() -> Iterator[None]:
    """In float32 a supernet tells the order of two sums apart after a few steps."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def trained_network(recipe: Recipe, trainer: Trainer) -> NetworkTraining:
    space, data = NasBench201(INFO, num_cells=1, channels=4), toy_images()
    with seeded(0, "network"):
        network = space.build(space.sample(random.Random(0)))
    return NetworkTraining(network, data.train, data.info, recipe=recipe, trainer=trainer, seed=0)


def in_double(batch: Batch) -> Batch:
    return Batch(batch.images.double(), batch.labels)


def search_of(name: str, recipe: Recipe, trainer: Trainer) -> WeightSharingStrategy:
    side_by_side = name in ("ofa", "proxyless")
    space = (
        MobileNet(INFO, stage_channels=(8, 8), stage_strides=(1, 2), depths=(1, 2))
        if side_by_side
        else NasBench201(INFO, num_cells=1, channels=4)
    )
    problem = Problem(space, toy_images(), recipe, trainer, SupernetOptions(), seed=0)
    strategy = build(Strategy, node_of("strategy", name, SMALL_SEARCH), problem)
    assert isinstance(strategy, WeightSharingStrategy)
    strategy.supernet.double()
    read = strategy.valid_data.batch
    strategy.valid_data.batch = lambda step: in_double(read(step))  # type: ignore[method-assign]
    return strategy


def losses(name: str, num_ranks: int = 1) -> tuple[list[float], dict[str, object]]:
    """The sum of the losses after each step; the figures of the epoch. `name`: a strategy, or `network`."""
    recipe = Recipe(epochs=1, steps_per_epoch=NUM_STEPS, batch_size=8)
    trainer = Trainer(device="cpu", devices=num_ranks, sync_batch_norm=num_ranks > 1)
    with in_float64():
        work = trained_network(recipe, trainer) if name == "network" else search_of(name, recipe, trainer)
        tally = work.tally if isinstance(work, NetworkTraining) else work.train_tally
        work.start_epoch(0)
        sums = []
        for step, batches in enumerate(work.batches(0, work.steps_per_epoch)):
            work.step(step, *map(in_double, batches))
            sums.append(float(ranks.total(tally.sums)[0]))
        return sums, dict(work.end_epoch(0))


def _as_rank(rank: int, num_ranks: int, port: int, name: str, file: Path) -> None:
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    os.environ.update({key: str(value) for key, value in own.items()}, MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    with ranks.joined("cpu"):
        found = losses(name, num_ranks)
    if rank == 0:
        file.write_text(json.dumps(found))


def together(name: str, folder: Path) -> tuple[list[float], dict[str, object]]:
    file = folder / "found.json"
    spawn(_as_rank, (2, free_port(), name, file), nprocs=2)
    sums, figures = json.loads(file.read_text())
    return sums, figures


def check_alike(name: str, folder: Path) -> None:
    alone, figures = losses(name)
    both, found = together(name, folder)
    assert both == pytest.approx(alone, rel=1e-6)
    assert found.get("choices") == figures.get("choices")
    for key in ("train_accuracy", "valid_accuracy", "eigenvalue"):
        assert found.get(key) == pytest.approx(figures[key], rel=1e-6) if key in figures else True


@pytest.mark.parametrize("name", ["network", "darts"])
def test_two_processes_find_what_one_finds(name: str, tmp_path: Path) -> None:
    check_alike(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_two_processes_search_as_one_does(name: str, tmp_path: Path) -> None:
    check_alike(name, tmp_path)


# Alone, and what is refused


def test_alone_nothing_is_exchanged() -> None:
    value = torch.tensor([1.0, 2.0])
    assert (ranks.size(), ranks.rank(), ranks.greatest(3)) == (1, 0, 3)
    assert ranks.average([value])[0] is value
    assert ranks.total(value) is value
    assert torch.equal(ranks.gather(value), value[None])
    ranks.check_same({"loss": float("nan")}, "the end")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"devices": 2, "node": 1}, "trainer.node=1: .* trainer.nodes=1 have the numbers 0 to 0"),
        ({"nodes": 2}, "trainer.nodes=2 needs trainer.rendezvous=HOST:PORT"),
        ({"nodes": 2, "rendezvous": "here"}, "a free port on it; it is here"),
        ({"rendezvous": "here:1"}, "no effect with trainer.nodes=1"),
        ({"sync_batch_norm": True}, "no effect on one process"),
        ({"devices": 2, "sync_batch_norm": True, "compile": "default"}, "trainer.compile=off"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, object], parts: str) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=parts):
        Trainer("retrain", device="cpu", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(9, 1), (2, 1), (12, 4), (8, 3)])
def test_a_batch_that_cannot_be_shared_is_refused(batch_size: int, accumulate: int) -> None:
    recipe = Recipe(batch_size=12, accumulate=1)
    recipe.batch_size, recipe.accumulate = batch_size, accumulate
    with pytest.raises(ConfigError, match=f"recipe.batch_size={batch_size} is shared by the 2 processes"):
        recipe.check_ranks(2)
    Recipe(batch_size=12, accumulate=3).check_ranks(2)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (
            ["profile", "genotype=darts_v2", "trainer.devices=2"],
            ["trainer.devices=2", "`nas profile` works on one device"],
        ),
        (["latency", "trainer.devices=2"], ["trainer.devices=2", "`nas latency` works on one device"]),
        (["search", "-m", "trainer.nodes=2", "trainer.rendezvous=a:1", "seed=0,1"], ["Leave -m out"]),
        (["search", "trainer.devices=0"], ["trainer.devices=0", "at least 1"]),
    ],
)
def test_a_command_that_takes_one_device_says_so(
    words: list[str],
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "trainer.device=cpu"]) == 2
    told = capsys.readouterr().err
    assert [part for part in parts if part not in told] == []
    assert list(tmp_path.iterdir()) == []


# The command

SMALL = ["space=nasbench201", "space.num_cells=1", "space.channels=4", "recipe=smoke", "recipe.epochs=4"]
SMALL += ["recipe.steps_per_epoch=3", "recipe.batch_size=8", "trainer.device=cpu", "preflight=false"]
TOGETHER = ["search", *SMALL, "trainer.devices=2"]


@pytest.mark.slow
def test_a_search_on_two_processes_is_one_run_and_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """A stop is asked of the first process alone; all of them stop after the same step."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(nas(*TOGETHER, f"hydra.run.dir={whole}"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]
    assert len(outcome(whole)["metrics"]) == 4  # type: ignore[arg-type]
    process = nas(*TOGETHER, f"hydra.run.dir={cut}")
    wait_for(process, lambda: (cut / "metrics.jsonl").exists())
    process.send_signal(signal.SIGTERM)
    ended(process, 143, "nas search --resume")
    finish(nas("search", "--resume", str(cut)))
    assert outcome(cut) == outcome(whole)


@pytest.mark.slow
def test_a_retrain_on_two_processes_gives_one_network(tmp_path: Path) -> None:
    for name in ("one", "two"):
        finish(nas("retrain", "genotype=darts_v2", "space.num_cells=3", "space.channels=4", *SMALL[3:],
                   "trainer.devices=2", f"hydra.run.dir={tmp_path / name}"))  # fmt: skip
    one, two = (
        torch.load(tmp_path / name / "model.pt", weights_only=True)["weights"] for name in ("one", "two")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def children(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes that train."""
    found = psutil.Process(process.pid).children()
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_process_that_dies_is_told_of_and_the_search_goes_on(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = [*TOGETHER, "recipe.epochs=12"]
    finish(nas(*words, f"hydra.run.dir={whole}"))
    process = nas(*words, f"hydra.run.dir={cut}")
    wait_for(process, lambda: (cut / "checkpoint.pt").exists())
    children(process)[1].kill()
    ended(process, 1, "--resume")
    finish(nas("search", "--resume", str(cut)))
    assert outcome(cut) == outcome(whole)


@pytest.mark.slow
def test_no_process_outlives_the_one_that_was_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = nas(*TOGETHER, "recipe.epochs=200", f"hydra.run.dir={folder}")
    wait_for(process, lambda: (folder / "checkpoint.pt").exists())
    left = children(process)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert (len(left), alive) == (2, [])
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["strategy=random"], 2, "executor=processes"),
        (["strategy.order=2"], 2, "strategy.order=1"),
        (["recipe.batch_size=9"], 2, "recipe.batch_size to a multiple of 2"),
        (["recipe.learning_rate=1e30"], 1, "Lower recipe.learning_rate"),
    ],
)
def test_what_fails_in_the_processes_is_told_once(
    words: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    process = nas(*TOGETHER, *words, f"hydra.run.dir={tmp_path / 'run'}")
    output, _ = process.communicate(timeout=300)
    assert (process.returncode, output.count(sentence)) == (code, 1), output
    assert "Traceback" not in output
    assert (tmp_path / "run").exists() == (code == 1)


@pytest.mark.slow
def test_two_machines_find_what_two_processes_find(tmp_path: Path) -> None:
    """The second one is asked to stop; both do, and both go on."""
    alone, several = tmp_path / "alone", tmp_path / "several"
    finish(nas(*TOGETHER, f"hydra.run.dir={alone}"))
    address = [f"trainer.rendezvous=127.0.0.1:{free_port()}", "trainer.nodes=2", "trainer.devices=1"]
    folders = {1: tmp_path / "none", 0: several}  # only the first machine writes
    nodes = [
        nas(*TOGETHER, *address, f"trainer.node={node}", f"hydra.run.dir={folder}")
        for node, folder in folders.items()
    ]
    wait_for(nodes[0], (several / "metrics.jsonl").exists)
    nodes[0].send_signal(signal.SIGTERM)
    for node in nodes:
        ended(node, 143, "nas search --resume")
    again = f"trainer.rendezvous=127.0.0.1:{free_port()}"
    for process in [
        nas("search", "--resume", str(several), again, f"trainer.node={node}") for node in (0, 1)
    ]:
        finish(process)
    assert outcome(several) == outcome(alone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "several"]


@pytest.mark.slow
def test_torchrun_starts_it_as_well(tmp_path: Path) -> None:
    finish(nas(*TOGETHER, f"hydra.run.dir={tmp_path / 'own'}"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    torchrun += ["-m", "nas_cli"]
    for devices, code in ((2, 0), (1, 1)):
        done = subprocess.run(
            [*torchrun, *TOGETHER, f"trainer.devices={devices}", f"hydra.run.dir={tmp_path / str(devices)}"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert outcome(tmp_path / "2") == outcome(tmp_path / "own")
    assert "torchrun started 2 processes" in done.stderr
    assert not (tmp_path / "1").exists()
