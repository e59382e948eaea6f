"""The step of a search: the fast supernet against the plain one and the machine's limit.

    OMP_NUM_THREADS=1 python benchmarks/supernet.py [rounds] [--case CASE ...] [--batch 64]

A step is the weights' pass (all gradients a strategy needs for them) and the architecture's pass; a sampled
path has no architecture's pass. *plain* computes every candidate by its definition, in contiguous memory,
with all gradients in both passes, as the public implementations do; *plain, channels_last* the same in the
faster memory layout; *fast* is what `nas search` runs. Same weights, same function. CPU seconds at one
thread, interleaved; peak memory of each in a process of its own; the operations of one weights' pass, a
figure that no noisy machine can blur; `limit.py` says what the limit is.
"""

import argparse
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from limit import cpu_seconds, measure_limit
from operations import count_operations
from torch import Tensor

from nas_cli.data import ImageInfo
from nas_cli.seeds import seeded, stream
from nas_cli.space import SearchSpace
from nas_cli.spaces.darts import DartsSpace
from nas_cli.spaces.nasbench201 import NasBench201
from nas_cli.strategies.gdas import straight_through
from nas_cli.supernet import Gate, Supernet, SupernetOptions

INFO = ImageInfo(3, 32, tuple("abcdefghij"), (0.0,) * 3, (1.0,) * 3, mirror=True)
FORMS = ("plain", "plain, channels_last", "fast")


@dataclass(frozen=True, slots=True)
class Case:
    """A space, and the gates that a method makes of its logits; `searches`: it learns the logits."""

    make_space: Callable[[], SearchSpace]
    gate: Callable[[Tensor, torch.Generator], Gate]
    searches: bool = True


def soft(logits: Tensor, draws: torch.Generator) -> Gate:
    return Gate.soft(logits.softmax(dim=1))


def hard(logits: Tensor, draws: torch.Generator) -> Gate:
    """GDAS: one candidate an edge, with the gradient of all."""
    gumbel = -torch.empty(logits.shape).exponential_(generator=draws).log()
    weights = straight_through((logits + gumbel).softmax(dim=1))
    return Gate(weights, tuple((pick,) for pick in weights.detach().argmax(dim=1).tolist()))


def sampled(logits: Tensor, draws: torch.Generator) -> Gate:
    rows, candidates = logits.shape
    return Gate.one_hot(torch.randint(candidates, (rows,), generator=draws).tolist(), candidates, logits)


def darts_space() -> SearchSpace:
    return DartsSpace(INFO, num_cells=8, channels=16, num_nodes=4)


def nasbench201_space() -> SearchSpace:
    return NasBench201(INFO, num_cells=5, channels=16)


CASES = {
    "darts": Case(darts_space, soft),
    "nasbench201-darts": Case(nasbench201_space, soft),
    "nasbench201-gdas": Case(nasbench201_space, hard),
    "nasbench201-path": Case(nasbench201_space, sampled, searches=False),
}


class Step:
    """One form of a case's supernet, and the passes of a step."""

    def __init__(self, case: Case, form: str, batch: int) -> None:
        self.case, self.plain = case, form != "fast"
        layout = torch.contiguous_format if form == "plain" else torch.channels_last
        with seeded(0, "supernet"):
            options = SupernetOptions(plain=self.plain)
            self.supernet: Supernet = case.make_space().build_supernet(options)
        self.supernet.to(memory_format=layout)
        generator = stream(0, "images")
        images = torch.randn(batch, 3, 32, 32, generator=generator)
        self.images = images.contiguous(memory_format=layout)
        self.labels = torch.randint(10, (batch,), generator=generator)
        self.logits = [torch.zeros(shape, requires_grad=True) for shape in self.supernet.gate_shapes]
        self.weights = list(self.supernet.parameters())

    @property
    def passes(self) -> dict[str, Callable[[int], Tensor]]:
        searches = {"architecture": self.architecture_pass} if self.case.searches else {}
        return {"weights": self.weights_pass, **searches}

    def weights_pass(self, draw: int = 0) -> Tensor:
        loss = self.loss(draw, detached=not self.plain)
        self._backward(loss, [*self.weights, *self.logits] if self.plain else self.weights)
        return loss

    def architecture_pass(self, draw: int = 0) -> Tensor:
        self.supernet.requires_grad_(self.plain)
        loss = self.loss(draw, detached=False)
        self._backward(loss, [*self.weights, *self.logits] if self.plain else self.logits)
        self.supernet.requires_grad_(True)
        return loss

    def _backward(self, loss: Tensor, leaves: Sequence[Tensor]) -> None:
        torch.autograd.grad(loss, leaves, allow_unused=True)

    def loss(self, draw: int, *, detached: bool) -> Tensor:
        """The same draw makes the same gates in every form."""
        draws = stream(draw, "draws")
        logits = [logit.detach() for logit in self.logits] if detached else self.logits
        gates = [self.case.gate(logit, draws) for logit in logits]
        return F.cross_entropy(self.supernet(self.images, gates), self.labels)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def measure(steps: dict[str, Step], rounds: int) -> dict[str, dict[str, list[float]]]:
    """CPU seconds by form and pass, a round a sample."""
    seconds: dict[str, dict[str, list[float]]] = {form: {} for form in steps}
    for draw in range(rounds):
        for form, step in steps.items():
            for name, run in step.passes.items():
                seconds[form].setdefault(name, []).append(cpu_seconds(lambda run=run, draw=draw: run(draw)))
    return seconds


def peak_memory(case: str, form: str, batch: int) -> float:
    """GiB, of a process that does two steps of that form. Linux counts the parent's peak in: ask first."""
    command = [sys.executable, __file__, "--case", case, "--memory-of", form, "--batch", str(batch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_memory(step: Step) -> None:
    for draw in range(2):
        for run in step.passes.values():
            run(draw)
    say(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def summary(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}, n={len(values)})"


def report(name: str, rounds: int, batch: int) -> None:
    case = CASES[name]
    memory = {form: peak_memory(name, form, batch) for form in FORMS}
    steps = {form: Step(case, form, batch) for form in FORMS}
    losses = {form: step.weights_pass().item() for form, step in steps.items()}  # it warms up too
    seconds = measure(steps, rounds)
    say(f"\n{name}, batch {batch}")
    for form, step in steps.items():
        operations = count_operations(step.weights_pass)
        passes = ", ".join(f"{name} {summary(values)}" for name, values in seconds[form].items())
        say(f"  {form}: loss {losses[form]:.6f}, {memory[form]:.2f} GiB, CPU seconds: {passes}")
        say(f"    operations of a weights' pass: {operations}")
    wholes = {form: [sum(parts) for parts in zip(*seconds[form].values(), strict=True)] for form in FORMS}
    for form in FORMS[:-1]:
        ratios = [slow / fast for slow, fast in zip(wholes[form], wholes["fast"], strict=True)]
        say(f"  a whole step, {form} / fast: {summary(ratios)}")
    limit = measure_limit(steps["plain"].supernet, lambda: steps["plain"].loss(0, detached=True))
    of_limit = [value / limit.seconds for value in seconds["fast"]["weights"]]
    say(f"  limit of a weights' pass: {limit.seconds:.2f} s, {1e3 * limit.seconds / batch:.1f} ms an image")
    say(f"    {limit.gigaflop / batch:.2f} GFLOP an image; {limit.convolutions:.2f} s + {limit.copies:.2f} s")
    say(f"  fast / limit: {summary(of_limit)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = arguments.case or list(CASES)
    if arguments.memory_of:
        print_memory(Step(CASES[cases[0]], arguments.memory_of, arguments.batch))
        return
    say(f"torch {torch.__version__}, {platform.machine()}, one thread")
    for name in cases:
        report(name, arguments.rounds, arguments.batch)


if __name__ == "__main__":
    main()
