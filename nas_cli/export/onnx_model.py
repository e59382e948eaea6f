"""ONNX by torch's own exporter, run by onnxruntime."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from nas_cli.export.program import INPUT, description_of, program_of
from nas_cli.model import TrainedNetwork

OPSET = 18
"""The earliest that torch writes; runtimes of 2022 and later read it."""


def export_onnx(trained: TrainedNetwork, folder: Path) -> Callable[[Tensor], Tensor]:
    """Input `images`, output `logits`, any number of images; classes and preprocessing are its metadata."""
    path = folder / "network.onnx"
    with _quiet():
        exported = torch.onnx.export(
            program_of(trained),
            input_names=[INPUT],
            output_names=["logits"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    _name_batch_axis(model)
    onnx.helper.set_model_props(model, description_of(trained))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return runner(path)


def runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Images to logits by onnxruntime on the processor."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _name_batch_axis(model: onnx.ModelProto) -> None:
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


@contextmanager
def _quiet() -> Iterator[None]:
    """Both libraries tell at length what they do; what matters is checked above."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
