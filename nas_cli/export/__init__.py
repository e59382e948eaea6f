"""A trained network as files that need nothing of this program; one format a file.

Every format starts from the same captured program (`program.py`) and hands back how to run what it wrote,
loaded anew, so that `agreement.py` can compare it with the network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nas_cli.export.archive import export_archive
from nas_cli.export.onnx_model import export_onnx
from nas_cli.export.python_module import export_python
from nas_cli.export.weights import export_weights
from nas_cli.model import TrainedNetwork


@dataclass(frozen=True, slots=True)
class Format:
    """`write` leaves its files in a folder and gives back how they run: images to logits.

    `tolerance`: the largest difference of a logit, as a share of the largest logit or of 1.
    """

    write: Callable[[TrainedNetwork, Path], Callable[[Tensor], Tensor]]
    files: tuple[str, ...]
    tolerance: float


FORMATS: Mapping[str, Format] = {
    "onnx": Format(export_onnx, ("network.onnx",), 1e-4),
    "torch_export": Format(export_archive, ("network.pt2",), 1e-6),
    "state_dict": Format(export_weights, ("weights.pt", "network.json"), 1e-6),
    "python": Format(export_python, ("network.py", "weights.pt"), 1e-6),
}
