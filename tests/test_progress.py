import errno
import io
import os
import re
import time

import pytest
from rich.console import Console

from nas_cli.progress import Output, Progress, duration, print_table


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_unit_is_one_plain_line() -> None:
    console = plain()
    with Progress("search", 2, console=console) as progress:
        progress.update(1, loss=2.30259, images_a_second=12345.6, phase="warm-up [1]")
        progress.update(1, loss=9.0)
        progress.update(2, loss=1.5)
    first, second = text_of(console).splitlines()
    assert re.fullmatch(
        r"search: epoch 1/2  loss 2\.303  images a second 12,346  phase warm-up \[1\]  \d+s left", first
    )
    assert second == "search: epoch 2/2  loss 1.5  0s left"


def test_a_reader_that_goes_away_ends_the_output_and_not_the_work() -> None:
    """As in `nas search | head -1`, and where a terminal is closed."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        console = Output(file=file, force_terminal=False)
        os.close(reading)
        with Progress("search", 2, console=console) as progress:
            progress.update(1)
            progress.update(2)
        assert console.quiet
        print_table("search", {"score": "1"}, Output(file=file, force_terminal=False))


def test_a_terminal_that_is_closed_ends_the_bar_and_not_the_work() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

    console = Output(file=Closed(), force_terminal=True)
    with Progress("search", 2, console=console) as progress:
        progress.move(0.5)
        progress.update(1)
        progress.update(2)
    assert console.quiet


def test_what_an_earlier_process_did_says_nothing_about_the_time_left() -> None:
    console = plain()
    with Progress("search", 1000, console=console) as progress:
        time.sleep(0.05)
        progress.update(501)
    line = text_of(console).strip()
    seconds = int(line.removeprefix("search: epoch 501/1000  ").removesuffix("s left"))
    assert seconds >= 24  # 499 units of 0.05 s


def test_without_a_total_there_is_no_time_left() -> None:
    console = plain()
    with Progress("search", None, unit="evaluation", console=console) as progress:
        progress.update(1, score=0.5)
    assert text_of(console) == "search: evaluation 1  score 0.5\n"


def test_a_terminal_shows_every_figure_even_where_it_is_narrow() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=60)
    with Progress("retrain", 3, unit="step", console=console) as progress:
        progress.update(2, loss=2.30259, accuracy=0.125)
    last = text_of(console).split("\x1b[2K")[-1]
    assert "retrain: step 2/3" in last
    assert "loss 2.303" in last
    assert "left" in last


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("search", 1) as progress:
        progress.update(1)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "search: epoch 1/1  0s left\n"


def test_a_piped_table_has_whole_values_and_no_colour_codes(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/long" * 60
    print_table("Found", {"genotype": path, "accuracy": "97.1 [best]"})
    assert capsys.readouterr().out == f"Found\n  genotype  {path}\n  accuracy  97.1 [best]\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m 00s"), (200, "3m 20s"), (7500, "2h 05m"), (4 * 86400 + 3 * 3600, "4d 03h")],
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_units_done_in_no_time_share_a_line_but_the_last_has_its_own() -> None:
    console = plain()
    with Progress("search", 1000, interval=60.0, console=console) as progress:
        for completed in range(1, 1001):
            progress.update(completed)
    lines = text_of(console).splitlines()
    assert [line.split()[2] for line in lines] == ["1/1000", "1000/1000"]
