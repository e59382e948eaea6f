"""The files of a report: HTML by Jinja2, Markdown, CSV."""

import csv
import io
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from nas_cli.architecture import Json
from nas_cli.report import comparison, story
from nas_cli.report.chart import strip_chart
from nas_cli.report.comparison import Group
from nas_cli.report.costs import parameters_of
from nas_cli.report.figures import Figure, sections
from nas_cli.report.record import RunRecord, run_folders
from nas_cli.run import write_atomically

FORMATS = ("html", "md", "csv")


def report_after(folder: Path, sweep: bool = False) -> None:
    """Leave report.html when a command is done; a page that cannot be made costs a warning, no result."""
    try:
        if sweep:
            write_comparison([RunRecord.read(run) for run in run_folders(folder)], folder, ("html",))
        else:
            write_report(folder)
    except Exception as error:  # whatever it is, the run itself is done and saved
        logging.getLogger(__name__).warning("No report was written: %s: %s", type(error).__name__, error)


def write_report(folder: Path, formats: Sequence[str] = ("html",)) -> list[Path]:
    """Write report.html, .md or .csv of one run into its folder. Raises RunError where it is none."""
    record = RunRecord.read(folder)
    makers: dict[str, Callable[[], str]] = {
        "html": lambda: run_page(record),
        "md": lambda: run_markdown(record),
        "csv": lambda: table_csv([record]),
    }
    return _write(folder, {name: makers[name]() for name in formats})


def write_comparison(
    records: Sequence[RunRecord], folder: Path, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write report.html, .md or .csv of several runs into a folder."""
    makers: dict[str, Callable[[], str]] = {
        "html": lambda: comparison_page(records),
        "md": lambda: comparison_markdown(records),
        "csv": lambda: table_csv(records),
    }
    folder.mkdir(parents=True, exist_ok=True)
    return _write(folder, {name: makers[name]() for name in formats})


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    files = [folder / f"report.{name}" for name in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_atomically(file, text.encode())
    return files


def run_page(record: RunRecord) -> str:
    parameters = parameters_of(record)
    return _render(
        "run.html",
        title=f"{record.command}: {record.folder.name}",
        record=record,
        sentence=story.sentence(record, parameters),
        facts=story.facts(record, parameters),
        sections=sections(record),
        environment=story.environment(record),
        settings=story.settings(record),
        reproduce=story.reproduce(record),
        go_on=story.go_on(record),
    )


def run_markdown(record: RunRecord) -> str:
    parameters = parameters_of(record)
    lines = [
        f"# {_md(record.command)}: {_md(record.folder.name)}",
        "",
        _md(story.sentence(record, parameters)),
        "",
    ]
    lines += _md_table(("", ""), story.facts(record, parameters))
    lines += ["", "## Environment", "", *_md_table(("", ""), story.environment(record))]
    commands = [*story.reproduce(record), *(command for command, _ in story.go_on(record))]
    return "\n".join([*lines, "", "## Commands", "", "```", *commands, "```", ""])


def comparison_page(records: Sequence[RunRecord]) -> str:
    groups = comparison.groups_of(records)
    return _render(
        "comparison.html",
        title=f"{len(records)} runs compared",
        sentence=_headline(groups),
        groups=groups,
        differences=comparison.differences(groups),
        figures=_strips(groups),
        rows=_filled(comparison.rows_of(records)),
    )


def comparison_markdown(records: Sequence[RunRecord]) -> str:
    groups = comparison.groups_of(records)
    heads = ("group", "command", "mean", "deviation", "n")
    lines = [f"# {len(records)} runs compared", "", _md(_headline(groups)), ""]
    lines += _md_table(heads, [_group_row(group) for group in groups])
    lines += ["", "Difference of the best group and each other one by Welch's t-test:", ""]
    lines += _md_table(
        ("group", "difference", "p", "verdict"),
        [
            (one.other, f"{one.difference:.4g}", "" if one.p is None else f"{one.p:.3g}", one.verdict)
            for one in comparison.differences(groups)
        ],
    )
    return "\n".join([*lines, ""])


def table_csv(records: Sequence[RunRecord]) -> str:
    rows, text = comparison.rows_of(records), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _group_row(group: Group) -> tuple[str, ...]:
    mean = f"{group.mean:.4g} {group.unit}".rstrip() if group.scores else ""
    spread = "" if group.deviation is None else f"{group.deviation:.3g}"
    return group.name, group.command, mean, spread, str(len(group.scores))


def _headline(groups: Sequence[Group]) -> str:
    """The best of the last command that has scores: a training says more than a search."""
    scored = [group for group in groups if group.scores]
    if not scored:
        return "No run has a score yet."
    best = next((group for group in scored if group.command == "retrain"), scored[0])
    told = f"{best.mean:.4g} {best.unit}".rstrip()
    rivals = [
        one for one in comparison.differences(groups) if one.better == best.name and one.other != best.name
    ]
    if not rivals:
        return f"{best.name}: mean {told} over {len(best.scores)} runs."
    nearest = min(rivals, key=lambda one: one.difference)
    return (
        f"Best on average: {best.name} with {told} over {len(best.scores)} runs; "
        f"{nearest.difference:.3g} ahead of {nearest.other} ({nearest.verdict})."
    )


def _strips(groups: Sequence[Group]) -> list[Figure]:
    figures = []
    for command in dict.fromkeys(group.command for group in groups):
        scored = [group for group in groups if group.command == command and group.scores]
        if scored:
            label = f"score ({scored[0].unit})" if scored[0].unit else "score"
            chart = strip_chart(
                f"{command}: {label}", label, [(group.name, group.scores) for group in scored]
            )
            figures.append(Figure(chart, f"nas {command}: each run a point, the mean of its group a bar."))
    return figures


def _filled(rows: Sequence[dict[str, Json]]) -> list[dict[str, str]]:
    """For people: columns without a value are left out, and figures are short."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    return [{name.replace("_", " "): _short(row[name]) for name in names} for row in rows]


def _short(value: Json) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _md(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _md_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(cell if cell == "---" else _md(cell) for cell in line) + " |" for line in lines]


def _render(template: str, **content: object) -> str:
    return _templates().get_template(template).render(**content)


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("nas_cli.report"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
