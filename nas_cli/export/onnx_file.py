"""ONNX by torch's own exporter, run by onnxruntime."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import onnx
import onnxruntime
import torch
from pydantic import Field
from torch import Tensor

from nas_cli.data import ImageData
from nas_cli.errors import ConfigError
from nas_cli.export.export_format import ExportFormat
from nas_cli.export.program import INPUT, description_of, program_of
from nas_cli.model import TrainedNetwork

OPSET = 18
"""The earliest that torch writes; runtimes of 2022 and later read it."""

Opset = Annotated[int, Field(ge=OPSET)]


class OnnxFile(ExportFormat):
    """Input `images`, output `logits`, any number of images; classes and preprocessing are its metadata."""

    files = ("network.onnx",)
    tolerance = 1e-4

    def __init__(self, *, opset: Opset = OPSET) -> None:
        self.opset = opset

    def write(
        self, trained: TrainedNetwork, data: ImageData | None, folder: Path
    ) -> Callable[[Tensor], Tensor]:
        path = folder / "network.onnx"
        onnx.save(onnx_of(trained, self.opset), path)
        return runner(path)


def onnx_of(trained: TrainedNetwork, opset: int) -> onnx.ModelProto:
    """Raises ConfigError for a version of the operators that is not to be had."""
    with quiet():
        exported = torch.onnx.export(
            program_of(trained),
            input_names=[INPUT],
            output_names=["logits"],
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _check_opset(model, opset)
    _name_batch_axis(model)
    onnx.helper.set_model_props(model, description_of(trained))
    onnx.checker.check_model(model, full_check=True)
    return model


def runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Images to logits by onnxruntime on the processor."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _check_opset(model: onnx.ModelProto, wanted: int) -> None:
    """Torch keeps the version that it wrote where it cannot convert it, and says so in a log alone."""
    given = next(entry.version for entry in model.opset_import if entry.domain == "")
    if given != wanted:
        raise ConfigError(
            f"format.opset={wanted}: this torch and onnx write the network with opset {given} and cannot "
            f"convert it. Give format.opset={given}, which runtimes of later versions read as well."
        )


def _name_batch_axis(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


@contextmanager
def quiet() -> Iterator[None]:
    """The libraries tell at length what they do; what matters is checked."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
