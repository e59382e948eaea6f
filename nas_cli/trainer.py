"""Where weights are trained."""

import os
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import nn

from nas_cli.data import Batch
from nas_cli.errors import ConfigError, UnsupportedError
from nas_cli.layers.drop_path import leave_uncompiled
from nas_cli.layers.synchronised import synchronised

ModuleType = TypeVar("ModuleType", bound=nn.Module)
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Trainer:
    """The device, its precision and its memory layout. Raises ConfigError for a device that is not there.

    `precision=auto` is bf16 where one network is retrained on a device that computes it fast; a search is
    in fp32, since a supernet's many small operations gain nothing by it (docs/performance.md). `compile` is
    the mode of torch.compile for a network that is trained by itself; a supernet is not compiled. Raises
    UnsupportedError where a mode has no effect.

    `devices` processes on each of `nodes` machines train together, each on its part of every batch, on a
    device of its own; on `cpu` they share the processors. Each machine is given the same command with its own
    `node` (0, 1, ...) and the address of the first one as `rendezvous`. `sync_batch_norm` normalises with the
    statistics of the whole batch; else each process has those of its part, as with a smaller batch.
    """

    def __init__(
        self,
        work: Literal["search", "retrain"] = "search",
        *,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        devices: Annotated[int, Field(ge=1)] = 1,
        nodes: Annotated[int, Field(ge=1)] = 1,
        node: Annotated[int, Field(ge=0)] = 0,
        rendezvous: str | None = None,
        sync_batch_norm: bool = False,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        memory_format: Literal["channels_last", "contiguous"] = "channels_last",
        compile: Literal["off", "default", "reduce-overhead"] = "off",
    ) -> None:
        self.device = _find_device(device)
        self.sync_batch_norm = sync_batch_norm
        _check_processes(self.device, devices, nodes, node, rendezvous)
        self.precision = _fast_precision(work, self.device) if precision == "auto" else precision
        self.memory_format = MEMORY_FORMATS[memory_format]
        self.compile_mode = compile
        if compile != "off":
            _check_compile(compile, work, self.device)
        if sync_batch_norm:
            _check_synchronised(devices * nodes, compile)

    def __str__(self) -> str:
        layout = next(name for name, value in MEMORY_FORMATS.items() if value == self.memory_format)
        return f"{self.device.type}, {self.precision}, {layout}"

    def place(self, module: ModuleType) -> ModuleType:
        """The module on the device, its four-dimensional weights in the memory layout."""
        return module.to(device=self.device).to(memory_format=self.memory_format)

    def arrange(self, batch: Batch) -> Batch:
        """The batch on the device, its images in the memory layout."""
        images = batch.images.to(self.device, non_blocking=True)
        labels = batch.labels.to(self.device, non_blocking=True)
        return Batch(images.contiguous(memory_format=self.memory_format), labels)

    def compiled(self, network: nn.Module) -> nn.Module:
        """What computes the network; weights, names and modes are the network's own."""
        if self.compile_mode == "off":
            return network
        leave_uncompiled()
        return cast(nn.Module, torch.compile(network, mode=self.compile_mode))

    def synchronised(self) -> AbstractContextManager[None]:
        """Around a forward pass of a training step: batch statistics of all processes, where asked for."""
        return synchronised(self.sync_batch_norm)

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)


def _fast_precision(work: str, device: torch.device) -> Literal["fp32", "bf16"]:
    if work == "search" or not computes_bf16_fast(device):
        return "fp32"
    return "bf16"


def computes_bf16_fast(device: torch.device) -> bool:
    """Whether it has instructions for bf16: of a CPU AVX512-BF16 or AMX, others only emulate it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in torch 2.9
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _check_compile(mode: str, work: str, device: torch.device) -> None:
    if work == "search":
        raise UnsupportedError(
            f"trainer.compile={mode}: a search is not compiled, since each path of a supernet and each "
            "sampled network would be compiled anew for minutes. Set trainer.compile=off for the search, and "
            "use it in `nas retrain`."
        )
    if mode == "reduce-overhead" and device.type != "cuda":
        raise UnsupportedError(
            f"trainer.compile={mode} records CUDA graphs, and the device is {device.type}. "
            "Set trainer.compile=default or trainer.device=cuda."
        )
    compiler = os.environ.get("CXX", "g++")
    if device.type == "cpu" and sys.platform == "linux" and shutil.which(compiler) is None:
        raise UnsupportedError(
            f"trainer.compile={mode} needs a C++ compiler, and there is no {compiler}. Install one, name it "
            "in the environment variable CXX, or set trainer.compile=off."
        )


def _check_processes(
    device: torch.device, devices: int, nodes: int, node: int, rendezvous: str | None
) -> None:
    if devices * nodes > 1 and device.type == "mps":
        raise UnsupportedError(
            f"trainer.devices={devices} trainer.nodes={nodes}: there is one GPU of the kind mps, and it "
            "takes one process. Leave them out, or set trainer.device=cpu."
        )
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(
            f"trainer.devices={devices}: this machine has {torch.cuda.device_count()} GPUs. Lower it."
        )
    if node >= nodes:
        raise ConfigError(
            f"trainer.node={node}: the machines of trainer.nodes={nodes} have the numbers 0 to {nodes - 1}."
        )
    if nodes > 1 and not re.fullmatch(r".+:\d+", rendezvous or ""):
        raise ConfigError(
            f"trainer.nodes={nodes} needs trainer.rendezvous=HOST:PORT, the address of the machine with "
            f"trainer.node=0 and a free port on it; it is {rendezvous}."
        )
    if nodes == 1 and rendezvous is not None:
        raise ConfigError(
            f"trainer.rendezvous={rendezvous} has no effect with trainer.nodes=1. Leave it out, or set "
            "trainer.nodes."
        )


def _check_synchronised(processes: int, compile_mode: str) -> None:
    if processes == 1:
        raise ConfigError(
            "trainer.sync_batch_norm=true has no effect on one process, which has the whole batch. Leave it "
            "out, or set trainer.devices."
        )
    if compile_mode != "off":
        raise UnsupportedError(
            f"trainer.sync_batch_norm=true does not go with trainer.compile={compile_mode}: compiled code "
            "does not wait for other processes in its midst. Set trainer.compile=off."
        )


def _find_device(name: str) -> torch.device:
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if not present[name]:
        here = ", ".join(kind for kind, there in present.items() if there)
        raise ConfigError(f"trainer.device={name}: this machine has no such device. It has: {here}, auto.")
    return torch.device(name)
