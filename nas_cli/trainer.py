"""Where weights are trained."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar

import torch
from torch import nn

from nas_cli.data import Batch
from nas_cli.errors import ConfigError

ModuleType = TypeVar("ModuleType", bound=nn.Module)
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Trainer:
    """The device, its precision and its memory layout. Raises ConfigError for a device that is not there.

    `precision=auto` is bf16 where one network is retrained on a device that computes it fast; a search is
    in fp32, since a supernet's many small operations gain nothing by it (docs/performance.md).
    """

    def __init__(
        self,
        work: Literal["search", "retrain"] = "search",
        *,
        device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
        devices: Literal[1] = 1,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        memory_format: Literal["channels_last", "contiguous"] = "channels_last",
    ) -> None:
        self.device = _find_device(device)
        self.devices = devices
        self.precision = _fast_precision(work, self.device) if precision == "auto" else precision
        self.memory_format = MEMORY_FORMATS[memory_format]

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
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not every torch can tell
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


def _find_device(name: str) -> torch.device:
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if present[kind])
    if not present[name]:
        here = ", ".join(kind for kind, there in present.items() if there)
        raise ConfigError(f"trainer.device={name}: this machine has no such device. It has: {here}, auto.")
    return torch.device(name)
