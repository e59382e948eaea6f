"""The step of a search: the fast supernet against the plain one and the machine's limit.

    OMP_NUM_THREADS=1 python benchmarks/supernet.py [rounds] [--case CASE ...] [--batch 64] [--threads 1]
        [--allocator LIBRARY]

A step is the weights' pass (all gradients a strategy needs for them) and the architecture's pass; a sampled
path has no architecture's pass. *plain* computes every candidate by its definition, in contiguous memory,
with all gradients in both passes, as the public implementations do; *plain, channels_last* the same in the
faster memory layout; *fast* is what `nas search` runs, its allocator included, or what it runs after
`LD_PRELOAD=LIBRARY`. Same weights, same function.
Each form is a process of its own, and they take turns, each with two steps of which the second is timed: in a
search, too, the step before was one of the same form. CPU seconds at one thread (seconds at several), peak
memory, and the operations of one weights' pass, a figure that no noisy machine can blur; `step_limit.py`
says what the limit is.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from operations import Leaves, Operations, count_elsewhere, count_operations
from step_limit import limit_of
from torch import Tensor

from nas_cli.allocator import settle_allocator
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

    def __init__(self, case: Case, form: str, batch: int, device: str = "cpu") -> None:
        self.case, self.plain = case, form != "fast"
        layout = torch.contiguous_format if form == "plain" else torch.channels_last
        with seeded(0, "supernet"):
            options = SupernetOptions(plain=self.plain)
            self.supernet: Supernet = case.make_space().build_supernet(options)
        self.supernet.to(device, memory_format=layout)
        generator = stream(0, "images")
        images = torch.randn(batch, 3, 32, 32, generator=generator)
        self.images = images.to(device).contiguous(memory_format=layout)
        self.labels = torch.randint(10, (batch,), generator=generator).to(device)
        shapes = self.supernet.gate_shapes
        self.logits = [torch.zeros(shape, device=device, requires_grad=True) for shape in shapes]
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


class Contestant:
    """A form in a process of its own, which runs the passes of a step when it is asked to."""

    def __init__(self, case: str, form: str, batch: int, allocator: str) -> None:
        command = [sys.executable, __file__, "--case", case, "--batch", str(batch), "--serve", form]
        command += ["--threads", str(torch.get_num_threads())]
        preload = {"LD_PRELOAD": allocator} if allocator and form == "fast" else {}
        self.process = subprocess.Popen(
            command, env={**os.environ, **preload}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ask("0")  # it warms up

    def ask(self, question: str) -> list[float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(question + "\n")
        self.process.stdin.flush()
        return [float(word) for word in self.process.stdout.readline().split()]

    def seconds(self, draw: int) -> list[float]:
        """Of each pass."""
        return self.ask(str(draw))

    def operations(self) -> Operations:
        dispatched, views, *leaves = map(int, self.ask("operations"))
        return Operations(dispatched, views, Leaves(*leaves))

    def peak_memory(self) -> float:
        """GiB."""
        return self.ask("memory")[0]


def serve(step: Step) -> None:
    for line in sys.stdin:
        if line.strip() == "operations":
            found = count_operations(step.weights_pass)
            say(f"{found.dispatched} {found.views} {found.leaves.all} {found.leaves.computing}")
        elif line.strip() == "memory":
            say(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))
        else:  # as in a search, where the step before was one of the same form
            passes = [partial(run, int(line)) for run in step.passes.values()]
            for run in passes:
                run()
            say(" ".join(str(seconds_of(run)) for run in passes))


def seconds_of(run: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    run()
    return clock() - started


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def summary(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f}, n={len(values)})"


def report(name: str, forms: Sequence[str], rounds: int, batch: int, allocator: str = "") -> None:
    say(f"\n{name}, batch {batch}")
    contestants = {form: Contestant(name, form, batch, allocator) for form in forms}
    seconds = {
        draw: {form: process.seconds(draw) for form, process in contestants.items()} for draw in range(rounds)
    }
    for form, process in contestants.items():
        passes = zip(*(found[form] for found in seconds.values()), strict=True)
        say(f"  {form}: {process.peak_memory():.2f} GiB, seconds: {', '.join(map(summary, passes))}")
        say(f"    operations of a weights' pass: {process.operations()}")
        if CASES[name].gate is soft:  # others look at what they draw, which has no values there
            say(f"    on a GPU: {elsewhere(CASES[name], form)} operations that compute")
        process.process.kill()
    for form in forms[:-1]:
        ratios = [sum(found[form]) / sum(found["fast"]) for found in seconds.values()]
        say(f"  a whole step, {form} / fast: {summary(ratios)}")
    report_limit(name, [found["fast"][0] for found in seconds.values()], batch)


def elsewhere(case: Case, form: str) -> int:
    """Operations of a weights' pass on a GPU, counted without one."""
    return count_elsewhere(Step(case, form, 2, device="meta").weights_pass)


def report_limit(name: str, seconds: Sequence[float], batch: int) -> None:
    """Of a forward pass and all its gradients but the images': a few images are enough."""
    images = min(batch, 16)
    step = Step(CASES[name], "plain", images)
    limit = limit_of(step.weights_pass)
    scale = batch / images
    milliseconds = 1e3 * limit.seconds / images
    say(f"  limit of a weights' pass: {scale * limit.seconds:.2f} s, {milliseconds:.1f} ms an image")
    share = limit.copies / limit.seconds
    say(f"    {limit.gigaflop / images:.2f} GFLOP an image; copies are {share:.0%} of the time")
    say(f"  fast / limit: {summary([value / limit.seconds / scale for value in seconds])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rounds", type=int, nargs="?", default=5)
    parser.add_argument("--case", choices=CASES, nargs="+")
    parser.add_argument("--form", choices=FORMS, nargs="+")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--allocator", default="", help="a library to preload, such as libtcmalloc_minimal.so.4"
    )
    parser.add_argument("--serve", choices=FORMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cases = arguments.case or list(CASES)
    if arguments.serve:
        if arguments.serve == "fast":
            settle_allocator()
        serve(Step(CASES[cases[0]], arguments.serve, arguments.batch))
    elif len(cases) == 1:
        say(f"torch {torch.__version__}, {platform.machine()}, threads: {arguments.threads}")
        report(cases[0], arguments.form or FORMS, arguments.rounds, arguments.batch, arguments.allocator)
    else:  # a child's peak memory begins at its parent's, so each case has a parent of its own
        for name in cases:
            subprocess.run([sys.executable, *sys.argv, "--case", name], check=True)


if __name__ == "__main__":
    main()
