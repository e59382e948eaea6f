"""A network found under a latency beside two well-known ones of that latency, trained for equal minutes.

    OMP_NUM_THREADS=1 python benchmarks/hours/under_latency.py IMAGES.npz [--seeds 3] [--minutes 4]

The limit is what torchvision's MobileNetV3-Small takes here, with a stem of stride 1: one image, one thread.
ResNet-18 (stem of 3 x 3 and stride 1, no pooling after it) is made as wide as it stays below. `nas latency`
runs once and `nas search` once a seed, under a budget 5 % below the limit, since it keeps to predictions, and
of multiply-adds besides: in equal minutes, what is cheap to train sees more images.
Then all networks are trained from scratch by the loop and the recipe of `nas retrain recipe=cpu_retrain`, for
as many steps as fit into the minutes by their own step, timed one after the other beforehand.

Searches and trainings go two side by side. Prints a table and writes it to outputs/under_latency/table.md,
with a drawing in compared.png. Begun again it goes on where it was.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torchvision.models import mobilenet_v3_small
from torchvision.models.resnet import BasicBlock

from nas_cli.architecture import Genotype, read_genotype
from nas_cli.catalogue import conf_dir
from nas_cli.config import build
from nas_cli.cost import count_parameters
from nas_cli.data import ImageData, ImageInfo
from nas_cli.datasets.npz import Npz
from nas_cli.network_training import NetworkTraining, accuracy
from nas_cli.recipe import Recipe
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace
from nas_cli.timing import Conditions, forward_of, measure
from nas_cli.trainer import Trainer
from nas_cli.training import run_epochs

FOLDER = Path("outputs") / "under_latency"
SPACE = ("space=macro", "space.num_stages=3", "space.depths=[3,6,9]", "space.widths=[16,32,64]")
SEARCH = (
    "strategy=successive_halving",
    "strategy.num_architectures=27",
    "strategy.min_fidelity=10",
    "strategy.max_fidelity=90",
    "evaluator=from_scratch",
    "recipe=cpu",
    "recipe.weights_share=0.9",
    "budget.macs=20e6",
)
MOBILENET, RESNET, FOUND = "MobileNetV3-Small", "ResNet-18, narrowed", "found"
WIDTHS = range(8, 65, 4)
MARGIN = 0.95
STEPS = 5


@dataclass(frozen=True)
class Contender:
    """One network: `genotype` is the file of a found one, `width` the first stage's of a ResNet-18."""

    name: str
    seed: int
    width: int = 0
    genotype: str = ""

    @property
    def title(self) -> str:
        return f"{self.name}, seed {self.seed}"

    def network(self, info: ImageInfo) -> nn.Module:
        with seeded(self.seed, "network"):
            if self.name == MOBILENET:
                return small_mobilenet(info.num_classes)
            if self.name == RESNET:
                return narrow_resnet18(self.width, info.num_classes)
            genotype = read_genotype(self.genotype)
            assert isinstance(genotype, Genotype)
            space: SearchSpace = build(SearchSpace, OmegaConf.create(dict(genotype.space)), info)
            network: nn.Module = space.build(space.architecture_of(genotype.choices))
            return network


@dataclass(frozen=True)
class Result:
    """`minutes`: what the steps take where nothing runs beside them, by `step_seconds`."""

    parameters: int
    latency_ms: float
    step_seconds: float
    steps: int
    minutes: float
    test_accuracy: float


def small_mobilenet(num_classes: int) -> nn.Module:
    network: nn.Module = mobilenet_v3_small(num_classes=num_classes)
    stem = network.get_submodule("features.0.0")
    assert isinstance(stem, nn.Conv2d)
    stem.stride = (1, 1)
    return network


def narrow_resnet18(width: int, num_classes: int) -> nn.Module:
    """torchvision's blocks and initial weights, in stages of `width`, 2, 4 and 8 times as many channels."""
    layers: list[nn.Module] = [*conv_norm(3, width, kernel=3), nn.ReLU()]
    before = width
    for stage in range(4):
        after = width * 2**stage
        shortcut = nn.Sequential(*conv_norm(before, after, kernel=1, stride=2)) if stage else None
        layers.append(BasicBlock(before, after, stride=2 if stage else 1, downsample=shortcut))
        layers.append(BasicBlock(after, after))
        before = after
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, num_classes))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def conv_norm(before: int, after: int, kernel: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    return convolution, nn.BatchNorm2d(after)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=4.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    data = Npz(path=arguments.images).load()
    limit_ms, width = limits(data.info)
    print(f"limit {limit_ms:.2f} ms; ResNet-18 of {width} channels", flush=True)
    seeds = range(arguments.seeds)
    searches(arguments.images, limit_ms, seeds)
    contenders = [
        *(
            Contender(FOUND, seed, genotype=str(FOLDER / f"search-{seed}" / "genotype.json"))
            for seed in seeds
        ),
        *(Contender(RESNET, seed, width) for seed in seeds),
        *(Contender(MOBILENET, seed) for seed in seeds),
    ]
    found = results(contenders, data, arguments.images, arguments.minutes)
    text = table(found, limit_ms)
    (FOLDER / "table.md").write_text(text)
    draw(found, limit_ms)
    print(text)


def limits(info: ImageInfo) -> tuple[float, int]:
    """The latency of MobileNetV3-Small, and the greatest width of a ResNet-18 that does not take longer."""
    file = FOLDER / "limits.json"
    if not file.exists():
        networks: list[nn.Module] = [small_mobilenet(10), *(narrow_resnet18(width, 10) for width in WIDTHS)]
        limit, *others = latencies(networks, info)
        width = max(width for width, latency in zip(WIDTHS, others, strict=True) if latency <= limit)
        file.write_text(json.dumps({"limit_ms": limit, "width": width}))
    content = json.loads(file.read_text())
    return content["limit_ms"], content["width"]


def latencies(networks: Sequence[nn.Module], info: ImageInfo) -> list[float]:
    """Milliseconds of one image on one thread, all measured in turn."""
    conditions = Conditions.here("cpu", threads=1, batch_size=1)
    shape = 1, info.channels, info.size, info.size
    timings = measure([forward_of(network, shape, conditions) for network in networks], conditions, 0.2)
    return [timing.median for timing in timings]


def searches(images: str, limit_ms: float, seeds: Sequence[int]) -> None:
    data = ("dataset=npz", f"dataset.path={images}")
    timed = FOLDER / "latency"
    if not (timed / "check.json").exists():
        nas("latency", *SPACE, *data, f"hydra.run.dir={timed}")
    budget = (f"budget.latency_ms={MARGIN * limit_ms:.3f}", f"budget.latency_table={timed / 'latency.json'}")

    def search(seed: int) -> None:
        folder = genotype_of(seed).parent
        if folder.exists() and not genotype_of(seed).exists():
            nas("search", "--resume", str(folder))
        elif not folder.exists():
            made = f"hydra.run.dir={folder}"
            nas("search", *SPACE, *SEARCH, *data, *budget, f"seed={seed}", made)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(search, seeds))


def genotype_of(seed: int) -> Path:
    return FOLDER / f"search-{seed}" / "genotype.json"


def nas(*words: str) -> None:
    arguments = [sys.executable, "-m", "nas_cli", *words]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stderr}")


def results(
    contenders: Sequence[Contender], data: ImageData, images: str, minutes: float
) -> dict[Contender, Result]:
    """Each as it was trained before, or is trained now."""
    networks = [contender.network(data.info) for contender in contenders]
    times = latencies(networks, data.info), step_seconds(contenders, data)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        work = partial(result, images=images, minutes=minutes)
        return dict(zip(contenders, pool.map(work, contenders, *times), strict=True))


def step_seconds(contenders: Sequence[Contender], data: ImageData) -> list[float]:
    """CPU seconds of a training step of each, all timed in turn."""
    trainings = [training_of(contender, data, 1) for contender in contenders]
    rounds = [[seconds_of(training, step) for training in trainings] for step in range(STEPS)]
    return [statistics.median(times) for times in zip(*rounds[1:], strict=True)]


def seconds_of(training: NetworkTraining, step: int) -> float:
    training.start_epoch(0)
    (batch,) = next(training.batches(step, step + 1))
    started = time.process_time()
    training.step(step, batch)
    return time.process_time() - started


def training_of(contender: Contender, data: ImageData, epochs: int) -> NetworkTraining:
    settings = OmegaConf.load(conf_dir() / "recipe" / "cpu_retrain.yaml")
    recipe = OmegaConf.merge(settings, {"epochs": epochs})
    assert isinstance(recipe, DictConfig)
    return NetworkTraining(
        contender.network(data.info),
        data.train,
        data.info,
        recipe=build(Recipe, recipe),
        trainer=Trainer("retrain", device="cpu"),
        seed=contender.seed,
    )


def result(contender: Contender, latency_ms: float, seconds: float, images: str, minutes: float) -> Result:
    """Trains one contender in this process."""
    file = FOLDER / f"{contender.title}.json"
    if not file.exists():
        torch.set_num_threads(1)
        data = Npz(path=images).load()
        training = training_of(contender, data, epochs=1)
        epochs = max(2, round(60 * minutes / seconds / training.steps_per_epoch))
        training = training_of(contender, data, epochs)
        run_epochs(training)
        network, steps = training.trained, epochs * training.steps_per_epoch
        right = accuracy(network, data.test, data.info, training.trainer, 256)
        outcome = Result(count_parameters(network), latency_ms, seconds, steps, steps * seconds / 60, right)
        file.write_text(json.dumps(asdict(outcome)))
        print(f"{contender.title}: {right:.2f} % after {outcome.minutes:.1f} minutes", flush=True)
    return Result(**json.loads(file.read_text()))


def table(found: Mapping[Contender, Result], limit_ms: float) -> str:
    lines = [
        f"Limit: {limit_ms:.2f} ms.",
        "",
        "| network | parameters | latency, ms | minutes | steps of 64 images | test accuracy, % (sd, n) |",
        "|---|---|---|---|---|---|",
    ]
    for name in (FOUND, RESNET, MOBILENET):
        results = [result for contender, result in found.items() if contender.name == name]
        rights = [result.test_accuracy for result in results]
        spread = statistics.stdev(rights) if len(rights) > 1 else 0.0
        columns = (
            ", ".join(sorted({f"{result.parameters:,}" for result in results})),
            f"{min(r.latency_ms for r in results):.2f} to {max(r.latency_ms for r in results):.2f}",
            f"{min(r.minutes for r in results):.1f} to {max(r.minutes for r in results):.1f}",
            f"{min(r.steps for r in results)} to {max(r.steps for r in results)}",
            f"{statistics.mean(rights):.2f} ({spread:.2f}, {len(rights)})",
        )
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[Contender, Result], limit_ms: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, marker in ((FOUND, "o"), (RESNET, "s"), (MOBILENET, "^")):
        points = [result for contender, result in found.items() if contender.name == name]
        axes.scatter(
            [point.latency_ms for point in points],
            [point.test_accuracy for point in points],
            marker=marker,
            label=name,
        )
    axes.axvline(limit_ms, linestyle=":", color="grey")
    axes.set(xlabel="ms, one image on one thread", ylabel="test accuracy, %")
    axes.set_xlim(left=0)
    axes.legend()
    figure.savefig(FOLDER / "compared.png", dpi=150)


if __name__ == "__main__":
    main()
