"""`nas report`: a page of one run in its folder, or one that compares several."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from nas_cli.errors import ConfigError
from nas_cli.progress import print_table
from nas_cli.report import FORMATS, write_comparison, write_report
from nas_cli.report.record import RunRecord, run_folders
from nas_cli.run import find_latest

OUTPUTS = Path("outputs")


def run(folders: Sequence[Path], formats: Sequence[str], output: Path | None = None) -> None:
    """Write the page of the one run, the latest by default; of several, or of a sweep, their comparison."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ConfigError(
            f"--format {unknown[0]}: must be one of {', '.join(FORMATS)}, or several with commas."
        )
    given = list(folders) or [find_latest(OUTPUTS, ("search", "derive", "retrain"))]
    runs = list(dict.fromkeys(run for folder in given for run in run_folders(folder)))
    if len(runs) == 1:
        if output is not None:
            raise ConfigError(
                f"--output {output}: the report of one run is written into the run's own folder."
            )
        files = write_report(runs[0], formats)
    else:
        files = write_comparison([RunRecord.read(run) for run in runs], output or _folder(given), formats)
    print_table("report", {file.suffix.lstrip("."): str(file) for file in files})


def _folder(given: Sequence[Path]) -> Path:
    """That of the sweep where one was given, else a new one."""
    if len(given) == 1:
        return given[0]
    return OUTPUTS / "report" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")
