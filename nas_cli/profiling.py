"""What one network costs on this machine: counted, then measured."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from nas_cli.architecture import Architecture, Json
from nas_cli.cost import Cost, cost_of
from nas_cli.data import ImageInfo
from nas_cli.memory import MEBIBYTE, bytes_of, peak_bytes
from nas_cli.optimizers import SGD
from nas_cli.seeds import seeded
from nas_cli.space import SearchSpace
from nas_cli.timing import Conditions, Timing, forward_of, measure

SECONDS = 0.1
"""How long each batch size is timed in each round."""


@dataclass(frozen=True)
class Profile:
    """Bytes are of tensors at their most, weights included; those of a step with momentum and gradients.

    `latencies` are by batch size. `file_bytes`: the weights as torch saves them.
    """

    cost: Cost
    conditions: Conditions
    forward_bytes: int
    step_bytes: int
    file_bytes: int
    latencies: dict[int, Timing]

    def to_json(self) -> dict[str, Json]:
        return {
            "parameters": self.cost.parameters,
            "multiply_adds": self.cost.multiply_adds,
            "batch_size": self.conditions.batch_size,
            "forward_memory_mb": round(self.forward_bytes / MEBIBYTE, 3),
            "step_memory_mb": round(self.step_bytes / MEBIBYTE, 3),
            "file_mb": round(self.file_bytes / MEBIBYTE, 3),
            "processor": self.conditions.processor,
            "device": self.conditions.device,
            "threads": self.conditions.threads,
            "latency_ms": {str(size): timing.median for size, timing in self.latencies.items()},
            "latency_spread": {str(size): timing.spread for size, timing in self.latencies.items()},
        }

    def rows(self) -> dict[str, str]:
        memory = f"{_mebibytes(self.forward_bytes)} forward, {_mebibytes(self.step_bytes)} a training step"
        return {
            "parameters": f"{self.cost.parameters:,}",
            "multiply-adds": f"{self.cost.multiply_adds:,}",
            "memory": f"{memory} of {self.conditions.batch_size} images",
            "model file": _mebibytes(self.file_bytes),
            **{
                f"latency of {size}": f"{timing.median:.3g} ms, spread {timing.spread:.0%}"
                for size, timing in self.latencies.items()
            },
            "measured on": self.conditions.where,
        }


def profile_of(
    space: SearchSpace, architecture: Architecture, info: ImageInfo, conditions: Conditions
) -> Profile:
    """Builds the network as published, freshly initialised, and runs it a few times."""
    device = torch.device(conditions.device)
    with seeded(0, "profile"):
        network = space.build(architecture).to(device).to(memory_format=torch.channels_last)
    shapes = {
        size: (size, info.channels, info.size, info.size) for size in sorted({1, conditions.batch_size})
    }
    timings = measure(
        [forward_of(network, shape, conditions) for shape in shapes.values()], conditions, SECONDS
    )
    forward = forward_of(network, shapes[conditions.batch_size], conditions)
    step = _training_step(network, shapes[conditions.batch_size], device)
    return Profile(
        cost_of(network, info),
        conditions,
        forward_bytes=bytes_of(network) + peak_bytes(forward, device),
        step_bytes=bytes_of(network) + peak_bytes(step, device),
        file_bytes=_file_bytes(network),
        latencies=dict(zip(shapes, timings, strict=True)),
    )


def _training_step(network: nn.Module, shape: tuple[int, ...], device: torch.device) -> Callable[[], None]:
    """One step of SGD with momentum, which it makes anew, as the first step of a training does."""
    images = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(shape[0], dtype=torch.long, device=device)
    optimizer = SGD(network.parameters(), lr=0.0, momentum=0.9)

    def step() -> None:
        network.train()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def _file_bytes(network: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.tell()


def _mebibytes(count: int) -> str:
    return f"{count / MEBIBYTE:.3g} MiB"
