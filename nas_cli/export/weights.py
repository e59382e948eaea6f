"""The weights alone, under the names of the published network, and a JSON file that tells what they are."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from nas_cli.data import ImageData
from nas_cli.export.export_format import ExportFormat
from nas_cli.export.program import description_of
from nas_cli.model import TrainedNetwork


class Weights(ExportFormat):
    """`torch.load("weights.pt", weights_only=True)` is a dict of tensors."""

    files = ("weights.pt", "network.json")
    tolerance = 1e-6

    def write(
        self, trained: TrainedNetwork, data: ImageData | None, folder: Path
    ) -> Callable[[Tensor], Tensor]:
        torch.save(trained.network.state_dict(), folder / "weights.pt")
        description = {name: json.loads(text) for name, text in description_of(trained).items()}
        description["space"] = dict(trained.genotype.space)
        (folder / "network.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        network = deepcopy(trained.network)
        network.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        return network.eval()
