"""Commands as Hydra's jobs: a plain run, the jobs of a sweep, a run that is resumed.

Everything goes through the public `hydra.main`, so that sweepers, launchers, `.hydra/` and logging are
Hydra's own. The input is read and checked first, so that a wrong setting leaves no folder.
"""

import os
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nas_cli import launching
from nas_cli.allocator import settle_allocator
from nas_cli.catalogue import conf_dir, make_importable, settings_of
from nas_cli.config import check
from nas_cli.config.composition import Request, compose, compose_jobs, user_folder
from nas_cli.config.preparation import prepare, quote
from nas_cli.errors import ConfigError, InputError, Interrupted, NasError, RunError, TrainingError
from nas_cli.sweep import Outcome, outcomes, table

PLACE = ("trainer.node", "trainer.rendezvous")
"""Settings that change where a run works, not what it finds."""


class _ThroughHydra(BaseException):
    """Carries an error of a job past Hydra, which catches every Exception and prints lines of its own."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@dataclass(frozen=True)
class Job:
    """What Hydra calls with a job's config; a class, so that launchers can send it to other processes."""

    command: str

    def __call__(self, config: DictConfig) -> float | None:
        """The score of the job, for sweepers that optimise."""
        settle_allocator()  # a launcher may have started this process
        sweep = HydraConfig.get().mode == RunMode.MULTIRUN
        folder = _as_seen_from_here(Path(HydraConfig.get().runtime.output_dir))
        try:
            _make_importable(HydraConfig.get().runtime.config_sources)
            check(config, settings_of(self.command))
            launching.run(self.command, config, folder)
        except Interrupted as error:
            raise _ThroughHydra(error) from error
        except Exception as error:
            _write_traceback(folder / f"{self.command}.log", error)
            if sweep:
                raise
            raise _ThroughHydra(error) from error
        return Outcome.read(folder).score


def start(request: Request) -> None:
    """Check the settings, then run the command once, or once a job of a sweep. Raises NasError."""
    make_importable(request.config_dir)
    request = prepare(request)
    if request.multirun:
        _start_sweep(request)
    else:
        _start_run(request)


def show(request: Request, flags: Sequence[str]) -> None:
    """Print what `--cfg` or `--info` ask for; nothing is run or checked."""
    request = prepare(request)
    compose(request)
    _call_hydra(request, flags)


def profile(request: Request, *, as_json: bool) -> None:
    """`nas profile` prints and leaves no folder, so it is no job of Hydra's."""
    make_importable(request.config_dir)
    config = compose(prepare(request))
    _without_hydra(config)
    check(config, settings_of("profile"))
    launching.check_one_device("profile", config)
    launching.command("profile")(config, as_json=as_json)


def predict(request: Request, words: Sequence[str], *, form: str) -> None:
    """`words`: images and folders, and settings. `nas predict` prints and leaves no folder either."""
    images = [Path(word) for word in words if Path(word).exists()]
    settings = tuple(word for word in words if not Path(word).exists())
    if unknown := [word for word in settings if "=" not in word]:
        raise ConfigError(f"{unknown[0]}: there is no such image or folder.")
    if not images:
        raise ConfigError("nas predict needs an image, or a folder of images: nas predict photo.png")
    make_importable(request.config_dir)
    config = compose(prepare(replace(request, overrides=settings)))
    _without_hydra(config)
    check(config, settings_of("predict"))
    launching.check_one_device("predict", config)
    launching.command("predict")(config, images=images, form=form)


def resume(command: str, folder: Path, config_dir: Path | None, overrides: Sequence[str] = ()) -> None:
    """Go on with a run as its own config.yaml says, whatever `conf/` says today.

    What it says of the place alone may be given anew: each of several machines has its own number.
    """
    from nas_cli.run import Run

    if others := [word for word in overrides if word.partition("=")[0] not in PLACE]:
        raise ConfigError(
            f"--resume goes on with the settings of {folder}; leave out {' '.join(others)}, or start a new "
            f"run with it. Only {' and '.join(PLACE)} may be given."
        )
    run = Run.resume(folder, command)
    make_importable(config_dir)
    hydra_file = folder / ".hydra" / "hydra.yaml"
    if hydra_file.is_file():
        _make_importable(OmegaConf.load(hydra_file).hydra.runtime.config_sources)
    config = OmegaConf.merge(OmegaConf.create(run.config), OmegaConf.from_dotlist(list(overrides)))
    assert isinstance(config, DictConfig)
    check(config, settings_of(command))
    launching.run(command, config, folder, resume=True)


def _start_run(request: Request) -> None:
    config = compose(request)
    folder = _folder(config, "hydra.run.dir")
    _without_hydra(config)
    check(config, settings_of(request.command))
    if launching.follows(config):
        launching.run(request.command, config, folder)
        return
    _refuse_used(folder)
    made = _missing(folder)
    pinned = replace(request, overrides=(*request.overrides, f"hydra.run.dir={_quoted(folder)}"))
    try:
        _call_hydra(pinned)
    except _ThroughHydra as passage:
        if isinstance(passage.error, InputError):
            _remove(folder, made)
        raise _as_told(passage.error, folder, request.command) from passage.error
    except OSError as error:
        _remove_empty(made)
        raise _unwritable(folder, error) from error


def _start_sweep(request: Request) -> None:
    plain = compose_jobs(request)
    folder = _folder(plain[0], "hydra.sweep.dir")
    for config in plain:
        _without_hydra(config)
        check(config, settings_of(request.command))
        launching.check_sweep(config)
    _refuse_used(folder)
    made = _missing(folder)
    pinned = replace(request, overrides=(*request.overrides, f"hydra.sweep.dir={_quoted(folder)}"))
    error: Exception | None = None
    try:
        _call_hydra(pinned, ["--multirun"])
    except _ThroughHydra as passage:
        raise passage.error from None
    except Exception as failure:
        if isinstance(failure, OSError) and not folder.is_dir():
            _remove_empty(made)
            raise _unwritable(folder, failure) from failure
        error = failure
    if len(outcomes(folder)) > 1:
        _compare(folder)
    _report(outcomes(folder), error)


def _compare(folder: Path) -> None:
    """Leave the comparison of a sweep's runs in its folder; not where launchers run them elsewhere."""
    from nas_cli.report import report_after

    if any(folder.glob("**/status.json")):
        report_after(folder, sweep=True)


def _report(found: list[Outcome], error: Exception | None) -> None:
    """The table of all jobs; then an error where one failed, or where the sweep itself did."""
    if found:
        sys.stdout.write(table(found) + "\n")
    failed = sum(outcome.status != "done" for outcome in found)
    if _wants_traceback() and error is not None:
        raise error
    if failed:
        raise TrainingError(f"{failed} of {len(found)} jobs failed; their logs say why.") from error
    if error is not None:
        raise TrainingError(f"The sweep failed: {_one_line(error)}") from error


def _call_hydra(request: Request, flags: Sequence[str] = ()) -> None:
    names = [f"--config-name={request.config_name}"] if request.config_name else []
    overrides = [f"hydra.job.name={request.command}", *request.brought, *request.overrides]
    main = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=request.command)
    with user_folder(request.config_dir), _process_state([*flags, *names, *overrides]):
        main(Job(request.command))()


@contextmanager
def _process_state(arguments: list[str]) -> Iterator[None]:
    """Hydra reads sys.argv, and raises errors instead of printing them under HYDRA_FULL_ERROR."""
    before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["nas", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before[0]
        if before[1] is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before[1]


def _folder(config: DictConfig, key: str) -> Path:
    try:
        return Path(str(OmegaConf.select(config, key, throw_on_missing=True)))
    except OmegaConfBaseException as error:
        raise InputError(f"{key} cannot be resolved: {str(error).splitlines()[0]}") from error


def _as_seen_from_here(folder: Path) -> Path:
    """Hydra makes it absolute; messages, tables and genotypes name it as the user would."""
    return folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder


def _quoted(folder: Path) -> str:
    return quote(f"run={folder}").removeprefix("run=")


def _without_hydra(config: DictConfig) -> None:
    with open_dict(config):
        del config["hydra"]


def _refuse_used(folder: Path) -> None:
    """Two runs in one folder would mix their files. Also says before the work that it cannot be written."""
    try:
        used = folder.exists() and any(folder.iterdir())
    except OSError as error:
        raise _unwritable(folder, error) from error
    if used:
        raise RunError(
            f"{folder} is not empty. Continue the run in it with --resume, or choose another folder with "
            "hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER for a sweep)."
        )
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        reason = "may not be written by you" if nearest.is_dir() else "is a file"
        raise RunError(f"The run folder {folder} cannot be made: {nearest} {reason}. {_OTHER_FOLDER}")


_OTHER_FOLDER = "Choose another one with hydra.run.dir=FOLDER (hydra.sweep.dir=FOLDER for a sweep)."


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(f"The run folder {folder} cannot be written ({error.strerror}). {_OTHER_FOLDER}")


def _missing(folder: Path) -> list[Path]:
    """The folder and its parents, as far as they are still to be made, the innermost first."""
    return [parent for parent in (folder, *folder.parents) if not parent.exists()]


def _remove(folder: Path, made: list[Path]) -> None:
    """Take back what a refused input left: the run folder, unless work was saved in it, and its parents."""
    if _holds_work(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    _remove_empty(made[1:])


def _remove_empty(made: list[Path]) -> None:
    for folder in made:
        with suppress(OSError):  # not there, or not empty
            folder.rmdir()


def _holds_work(folder: Path) -> bool:
    history = folder / "history.jsonl"
    return any(folder.glob("checkpoint*.pt")) or (history.is_file() and history.stat().st_size > 0)


def _as_told(error: Exception, folder: Path, command: str) -> Exception:
    """The error as the user is told it: an unexpected one in one line, unless a traceback is wanted."""
    if isinstance(error, NasError) or _wants_traceback():
        return error
    log = folder / f"{command}.log"
    return TrainingError(f"{_one_line(error)} (unexpected; full traceback in {log})")


def _wants_traceback() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, NasError) else f"{type(error).__name__}: {text}"


def _write_traceback(log: Path, error: Exception) -> None:
    """A run writes its own from its start to its end; this is for what fails before and after."""
    if isinstance(error, NasError) or _told_by_run(log, error):
        return
    with log.open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)


def _told_by_run(log: Path, error: Exception) -> bool:
    last = traceback.format_exception_only(error)[-1].strip()
    return log.is_file() and last in log.read_text(encoding="utf-8", errors="replace")


def _make_importable(sources: object) -> None:
    """The same in another process or another day, from what Hydra recorded of the search path."""
    for source in cast(list[DictConfig], sources):
        if source.provider == "command-line":
            make_importable(Path(source.path))
