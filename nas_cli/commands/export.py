"""`nas export`: a retrained network as files that need nothing of ours, compared with it."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nas_cli.commands.setup import plain
from nas_cli.config import build
from nas_cli.data import Dataset, Part
from nas_cli.errors import InputError
from nas_cli.export import FORMATS
from nas_cli.export.agreement import compare, refuse, sample_images
from nas_cli.model import TrainedNetwork, load_model
from nas_cli.progress import duration, print_table
from nas_cli.run import Run


def run(config: DictConfig, folder: Path) -> None:
    """Write the files of one format, and agreement.json."""
    trained = load_model(Path(config.run))
    exported = FORMATS[config.format]
    run = Run.create(folder, "export", plain(config))
    with run:
        images = sample_images(trained, _test_part(trained, run))
        agreement = compare(trained, exported.write(trained, folder), images)
        refuse(agreement, exported.tolerance, config.format)
        run.write_json("agreement.json", {"difference": agreement.difference, "images": agreement.num_images})
    rows = {"network": str(config.run), "format": config.format, "difference": agreement.text}
    files = {name: str(run.path(name)) for name in exported.files}
    print_table("export", {**rows, **files, "time": duration(run.seconds)})


def _test_part(trained: TrainedNetwork, run: Run) -> Part | None:
    """The test images that it was trained for; None, and a warning, where they are gone."""
    dataset = trained.genotype.dataset
    try:
        return None if dataset is None else build(Dataset, OmegaConf.create(dict(dataset))).load().test
    except InputError as error:
        run.log.warning(f"Compared on random images alone. {error}")
        return None
