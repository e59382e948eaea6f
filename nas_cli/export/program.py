"""The network as a flat program of torch's own operators, and what it has to know of its images."""

import json

import torch
from torch.export import Dim, ExportedProgram, export

from nas_cli.model import TrainedNetwork

INPUT = "images"


def program_of(trained: TrainedNetwork) -> ExportedProgram:
    """Takes preprocessed images (n, channels, size, size) for any n, gives logits (n, classes)."""
    info = trained.info
    example = torch.zeros(2, info.channels, info.size, info.size)
    with torch.no_grad():
        return export(trained.network.eval(), (example,), dynamic_shapes=({0: Dim.DYNAMIC},))


def description_of(trained: TrainedNetwork) -> dict[str, str]:
    """Classes, preprocessing and genotype, each as JSON.

    A pixel of 0 to 255 is divided by 255, then the channel's mean is subtracted and its std divided by.
    """
    info = trained.info
    return {
        "class_names": json.dumps(list(info.class_names)),
        "image_channels": json.dumps(info.channels),
        "image_size": json.dumps(info.size),
        "mean": json.dumps(list(info.mean)),
        "std": json.dumps(list(info.std)),
        "genotype": json.dumps(dict(trained.genotype.choices)),
    }
