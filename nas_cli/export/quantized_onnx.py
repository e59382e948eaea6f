"""ONNX in eight bits: weights and activations by onnxruntime's static quantiser."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor

from nas_cli.data import ImageData
from nas_cli.errors import DataError
from nas_cli.export.export_format import ExportFormat
from nas_cli.export.onnx_file import OPSET, Opset, onnx_of, quiet, runner
from nas_cli.export.program import INPUT
from nas_cli.model import TrainedNetwork
from nas_cli.recipe import Count

CALIBRATION_BATCH = 32


class QuantizedOnnx(ExportFormat):
    """Weights in eight bits with a scale a channel, activations with a scale a tensor, as QDQ nodes.

    Input and output stay float32, so that it is run as the float file is. The scales of the activations
    come from `calibration_images` training images, without augmentation.
    """

    files = ("network.onnx",)
    tolerance = None

    def __init__(self, *, opset: Opset = OPSET, calibration_images: Count = 512) -> None:
        self.opset = opset
        self.calibration_images = calibration_images

    def write(
        self, trained: TrainedNetwork, data: ImageData | None, folder: Path
    ) -> Callable[[Tensor], Tensor]:
        if data is None:
            raise DataError(
                "format=onnx_int8 reads training images for its scales, and those that the network was "
                "trained on are not to be had. Bring them back to their place, or take format=onnx."
            )
        count = min(self.calibration_images, len(data.train))
        chosen = torch.linspace(0, len(data.train) - 1, count).long()  # of all classes, as files are sorted
        batches = (trained.preprocess(data.train.read(part)[0]) for part in chosen.split(CALIBRATION_BATCH))
        model = onnx_of(trained, self.opset)
        with TemporaryDirectory() as scratch, quiet():
            plain, prepared = Path(scratch) / "plain.onnx", Path(scratch) / "prepared.onnx"
            onnx.save(model, plain)
            quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(folder / "network.onnx"),
                _Batches(batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        return runner(folder / "network.onnx")


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """The form in which the quantiser asks for images."""

    def __init__(self, batches: Iterator[Tensor]) -> None:
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}
