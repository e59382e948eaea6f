"""Garbage is looked for in what a command makes, not in what it loads or leaves."""

import subprocess
import sys

LOADS = """
import gc
from nas_cli import garbage, launching
looked = []
gc.callbacks.append(lambda phase, info: looked.append(phase))
garbage.put_off()
launching.command("search")
print(len(looked), gc.isenabled(), gc.get_freeze_count() > 100_000)
"""
ONCE = """
import gc
from nas_cli import launching
launching.command("list")
print(gc.isenabled(), gc.get_freeze_count())
"""
COMMAND = """
import gc, runpy, sys
sys.argv = ["nas", "--version"]
try:
    runpy.run_module("nas_cli", run_name="__main__")
except SystemExit as stop:
    print(stop.code, gc.get_freeze_count() > 10_000)
"""


def printed(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()[-1]


def test_a_command_loads_without_a_look_for_garbage_and_works_with_it() -> None:
    assert printed(LOADS) == "0 True True"


def test_where_it_was_not_put_off_nothing_is_left_out() -> None:
    assert printed(ONCE) == "True 0"


def test_a_process_ends_without_a_look() -> None:
    assert printed(COMMAND) == "0 True"
