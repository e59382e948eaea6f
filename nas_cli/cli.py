"""The command line: Typer parses, one function is called, and every error is told without a traceback."""

import itertools
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, cast

import typer
from typer.core import TyperCommand, TyperGroup

from nas_cli import __version__
from nas_cli.catalogue import COMMANDS, groups_of, options
from nas_cli.errors import ConfigError, NasError

app = typer.Typer(
    name="nas",
    help="Neural architecture search: search, derive and retrain a network on your own images.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


class Cfg(StrEnum):
    job = "job"
    hydra = "hydra"
    all = "all"


class Info(StrEnum):
    all = "all"
    config = "config"
    defaults = "defaults"
    defaults_tree = "defaults-tree"
    plugins = "plugins"
    searchpath = "searchpath"


class Form(StrEnum):
    table = "table"
    csv = "csv"
    jsonl = "jsonl"


class ComposedCommand(TyperCommand):
    """A command whose settings come from `conf/`: its help ends with the groups and their options."""

    def get_help(self, ctx: typer.Context) -> str:  # type: ignore[override]  # Typer's own click is private
        lines = [
            textwrap.fill(
                ", ".join(options(group)) or "none",
                80,
                initial_indent=f"  {group}=".ljust(15),
                subsequent_indent=" " * 15,
            )
            for group in groups_of(str(self.name))
        ]
        return "\n".join([super().get_help(ctx), "", "Groups:", *lines] if lines else [super().get_help(ctx)])


def _complete(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
    from nas_cli.completion import complete

    config_dir = ctx.params.get("config_dir")
    typed = [*(ctx.params.get("overrides") or []), *args]
    return complete(str(ctx.info_name), typed, incomplete, config_dir)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", autocompletion=_complete, help="Settings, as Hydra reads them."),
]
Multirun = Annotated[
    bool, typer.Option("--multirun", "-m", help="A job for each combination of key=value1,value2.")
]
ConfigDir = Annotated[
    Path | None,
    typer.Option(
        "--config-dir",
        "-cd",
        exists=True,
        file_okay=False,
        help="A folder with options and classes of your own.",
    ),
]
ConfigName = Annotated[
    str | None, typer.Option("--config-name", "-cn", help="A YAML to begin with instead of the command's.")
]
ShowCfg = Annotated[Cfg | None, typer.Option("--cfg", help="Print the composed settings and stop.")]
ShowInfo = Annotated[Info | None, typer.Option("--info", help="Print what Hydra knows and stop.")]
Resume = Annotated[
    Path | None, typer.Option("--resume", metavar="RUN", help="Go on with the run in that folder.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"nas {__version__}")
        raise typer.Exit


def _add_command(name: str, summary: str, *, resumable: bool = False) -> None:
    """A command that leaves a run folder, a sweep of them with -m."""

    def start(
        overrides: Overrides = None,
        *,
        multirun: Multirun = False,
        config_dir: ConfigDir = None,
        config_name: ConfigName = None,
        cfg: ShowCfg = None,
        info: ShowInfo = None,
    ) -> None:
        start_or_resume(
            overrides,
            multirun=multirun,
            config_dir=config_dir,
            config_name=config_name,
            cfg=cfg,
            info=info,
        )

    def start_or_resume(
        overrides: Overrides = None,
        *,
        multirun: Multirun = False,
        config_dir: ConfigDir = None,
        config_name: ConfigName = None,
        cfg: ShowCfg = None,
        info: ShowInfo = None,
        resume: Resume = None,
    ) -> None:
        from nas_cli.allocator import settle_allocator

        settle_allocator()
        from nas_cli import jobs
        from nas_cli.config.composition import Request

        _refuse_together({"--cfg": cfg, "--info": info, "--multirun": multirun, "--resume": resume})
        request = Request(name, tuple(overrides or ()), config_dir, config_name, multirun)
        if resume is not None:
            if config_name:
                raise ConfigError(f"--resume goes on with the settings of {resume}; leave out --config-name.")
            jobs.resume(name, resume, config_dir, overrides or [])
        elif cfg or info:
            jobs.show(request, [f"--cfg={cfg}"] if cfg else [f"--info={info}"])
        else:
            jobs.start(request)

    app.command(name, cls=ComposedCommand, help=summary)(start_or_resume if resumable else start)


_add_command(
    "search",
    "Find an architecture; writes genotype.json into a new folder under outputs/search.",
    resumable=True,
)
_add_command(
    "derive", "The genotypes of a finished search (run=FOLDER or the latest), drawn and with their cost."
)
_add_command(
    "retrain",
    "Train one architecture (genotype=FILE, NAME or the latest), from scratch or weights=FILE; test it.",
    resumable=True,
)


@app.command(cls=ComposedCommand)
def profile(
    overrides: Overrides = None,
    config_dir: ConfigDir = None,
    config_name: ConfigName = None,
    as_json: AsJson = False,
) -> None:
    """The cost of one architecture (genotype=FILE, NAME or the latest); trains and writes nothing."""
    from nas_cli import jobs
    from nas_cli.config.composition import Request

    request = Request("profile", tuple(overrides or ()), config_dir, config_name)
    jobs.profile(request, as_json=as_json)


_add_command(
    "latency", "Measure a space's candidates on this machine; writes latency.json under outputs/latency."
)
_add_command("export", "A retrained network as files that need nothing of nas, under outputs/export.")


@app.command(cls=ComposedCommand)
def predict(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE... KEY=VALUE",
            autocompletion=_complete,
            help="Images, folders of images, and settings.",
        ),
    ] = None,
    config_dir: ConfigDir = None,
    config_name: ConfigName = None,
    form: Annotated[Form, typer.Option("--format", help="How the classes are printed.")] = Form.table,
) -> None:
    """The classes of images by a retrained network (run=FOLDER or the latest); writes nothing."""
    from nas_cli import jobs
    from nas_cli.config.composition import Request

    jobs.predict(Request("predict", (), config_dir, config_name), words or [], form=form)


@app.command()
def report(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Run folders, or that of a sweep; the latest.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="html, md, csv, or several: html,md,csv.")
    ] = "html",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FOLDER", help="Where a comparison is written.")
    ] = None,
) -> None:
    """A page of one run, in its folder; of several, their comparison with a test of the difference."""
    from nas_cli.commands import report as reporting

    reporting.run(runs or [], formats.split(","), output)


@app.command("list")
def list_options(config_dir: ConfigDir = None) -> None:
    """What there is: spaces, strategies, data sets, published genotypes, a line on each."""
    from nas_cli.commands import list as listing

    listing.run(config_dir)


def _refuse_together(flags: dict[str, object]) -> None:
    given = [flag for flag, value in flags.items() if value]
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} do not go together: give one of them.")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the result is the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with _termination():
            _dispatch(words)
    except NasError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") != "0":
            raise
        sys.stderr.write(f"{type(error).__name__}: {error} (unexpected; HYDRA_FULL_ERROR=1 shows where)\n")
        return 1
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _dispatch(words: list[str]) -> None:
    """Help of one command is asked of that command: the root's options would make Typer import pydantic."""
    words = _with_info_values(words)
    if len(words) > 1 and words[0] in COMMANDS and {"-h", "--help"} & set(words[1:]):
        group = cast(TyperGroup, typer.main.get_command(app))
        group.commands[words[0]].main(["--help"], prog_name=f"nas {words[0]}")
    app(words, prog_name="nas")


def _with_info_values(words: list[str]) -> list[str]:
    """`--info` alone is `--info all`: Typer knows no option with an optional value."""
    whole: list[str] = []
    for word, following in itertools.zip_longest(words, words[1:]):
        whole += [word, "all"] if word == "--info" and following not in list(Info) else [word]
    return whole


@contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM ends with 143; a run takes the signals itself while it works, and saves its state first."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
