"""The first-order DARTS step: the fast supernet against the plain one.

    OMP_NUM_THREADS=1 python benchmarks/supernet.py [rounds]

A step is the weights' pass (all gradients a strategy needs for them) and the architecture's pass. The
plain form computes every candidate by its definition, in contiguous memory, with all gradients in both
passes, as the public implementations do; the fast form is what `nas search` runs. Same weights, same
function. CPU seconds at one thread, interleaved; peak memory of each in a process of its own; operations
are those that torch dispatches, a figure that no noisy machine can blur.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nas_cli.data import ImageInfo
from nas_cli.seeds import seeded, stream
from nas_cli.spaces.darts import DartsSpace
from nas_cli.supernet import Gate, Supernet, SupernetOptions

BATCH = 32
INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.0,) * 3, (1.0,) * 3, mirror=True)


class Step:
    """One form of the supernet, and the two passes of a step."""

    def __init__(self, *, plain: bool) -> None:
        space = DartsSpace(INFO, num_cells=8, channels=16, num_nodes=4)
        layout = torch.contiguous_format if plain else torch.channels_last
        with seeded(0, "supernet"):
            self.supernet: Supernet = space.build_supernet(SupernetOptions(plain=plain))
        self.supernet.to(memory_format=layout)
        generator = stream(0, "images")
        images = torch.randn(BATCH, 3, 32, 32, generator=generator)
        self.images = images.contiguous(memory_format=layout)
        self.labels = torch.randint(10, (BATCH,), generator=generator)
        self.logits = [torch.zeros(shape, requires_grad=True) for shape in self.supernet.gate_shapes]
        self.weights = list(self.supernet.parameters())
        self.plain = plain

    def weights_pass(self) -> Tensor:
        loss = self._loss(detached=not self.plain)
        torch.autograd.grad(loss, [*self.weights, *self.logits] if self.plain else self.weights)
        return loss

    def architecture_pass(self) -> Tensor:
        self.supernet.requires_grad_(self.plain)
        loss = self._loss(detached=False)
        torch.autograd.grad(loss, [*self.weights, *self.logits] if self.plain else self.logits)
        self.supernet.requires_grad_(True)
        return loss

    def _loss(self, *, detached: bool) -> Tensor:
        logits = [logit.detach() for logit in self.logits] if detached else self.logits
        gates = [Gate.soft(logit.softmax(dim=1)) for logit in logits]
        return F.cross_entropy(self.supernet(self.images, gates), self.labels)


class _Operations(TorchDispatchMode):
    """Counts what torch dispatches, without the views, which compute nothing."""

    count: int

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
        self.count += not function.is_view
        return function(*arguments, **(keywords or {}))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def cpu_seconds(run: Callable[[], Tensor]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def count_operations(step: Step) -> int:
    operations = _Operations()
    with operations:
        step.weights_pass()
        step.architecture_pass()
    return operations.count


def measure(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each pass of each form, a round a sample; the first round warms up."""
    steps = {"plain": Step(plain=True), "fast": Step(plain=False)}
    losses = [step.weights_pass().item() for step in steps.values()]
    say(f"loss: {losses[0]:.6f} plain, {losses[1]:.6f} fast")
    for form, step in steps.items():
        say(f"operations a step: {count_operations(step)} {form}")
    seconds: dict[str, list[float]] = {}
    for _ in range(rounds):
        for form, step in steps.items():
            for name, run in (("weights", step.weights_pass), ("architecture", step.architecture_pass)):
                seconds.setdefault(f"{form} {name}", []).append(cpu_seconds(run))
    return seconds


def peak_memory(form: str) -> float:
    """GiB, of a process that does two steps of that form. Linux counts the parent's peak in: ask first."""
    command = [sys.executable, __file__, "--memory-of", form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(form: str) -> None:
    step = Step(plain=form == "plain")
    for _ in range(2):
        step.weights_pass()
        step.architecture_pass()
    say(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def summary(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}, n={len(values)})"


def report(seconds: dict[str, list[float]]) -> None:
    for name, values in seconds.items():
        say(f"{name}: {summary(values)} CPU seconds")
    ratios = [
        (a + b) / (c + d)
        for a, b, c, d in zip(
            seconds["plain weights"],
            seconds["plain architecture"],
            seconds["fast weights"],
            seconds["fast architecture"],
            strict=True,
        )
    ]
    say(f"plain / fast, a whole step: {summary(ratios)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--memory-of", choices=("plain", "fast"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of:
        print_memory(arguments.memory_of)
        return
    say(f"torch {torch.__version__}, {platform.machine()}, one thread, batch {BATCH}, 8 cells, 16 channels")
    memory = {form: peak_memory(form) for form in ("plain", "fast")}
    say(f"peak memory: {memory['plain']:.2f} GiB plain, {memory['fast']:.2f} GiB fast")
    report(measure(arguments.rounds))


if __name__ == "__main__":
    main()
