"""`nas export`: a retrained network as files that need nothing of ours, compared with it."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from nas_cli.architecture import Json
from nas_cli.commands.setup import plain
from nas_cli.config import build
from nas_cli.data import Dataset, ImageData
from nas_cli.errors import InputError
from nas_cli.export.agreement import accuracy_of, compare, refuse, sample_images
from nas_cli.export.export_format import ExportFormat
from nas_cli.model import TrainedNetwork, load_model
from nas_cli.progress import duration, print_table
from nas_cli.run import Run


def run(config: DictConfig, folder: Path) -> None:
    """Write the files of one format, and agreement.json."""
    trained = load_model(Path(config.run))
    form = build(ExportFormat, config.format)
    run = Run.create(folder, "export", plain(config))
    with run:
        data = _data_of(trained, run)
        test = data.test if data else None
        exported = form.write(trained, data, folder)
        agreement = compare(trained, exported, sample_images(trained, test))
        found: dict[str, Json] = {"difference": agreement.difference, "images": agreement.num_images}
        rows = {"network": str(config.run), "difference": agreement.text}
        if form.tolerance is not None:
            refuse(agreement, form.tolerance)
        elif test is not None:
            before, after = (accuracy_of(network, trained, test) for network in (trained, exported))
            found |= {"accuracy_before": before, "accuracy_after": after}
            rows["test accuracy"] = f"{before:.2f} % before, {after:.2f} % after, of {len(test)} images"
        run.write_json("agreement.json", found)
    files = {name: _with_size(run.path(name)) for name in form.files}
    print_table("export", {**rows, **files, "time": duration(run.seconds)})


def _with_size(file: Path) -> str:
    return f"{file}  {file.stat().st_size / 1e3:,.0f} kB"


def _data_of(trained: TrainedNetwork, run: Run) -> ImageData | None:
    """The images that it was trained for; None, and a warning, where they are gone."""
    dataset = trained.genotype.dataset
    try:
        return None if dataset is None else build(Dataset, OmegaConf.create(dict(dataset))).load()
    except InputError as error:
        run.log.warning(f"Compared on random images alone. {error}")
        return None
