"""A run: one folder that holds everything one command read, did and found.

run.py          Run: every file of the folder is read and written through it
lookup.py       run folders on the disk: what state they are in, the latest of a command
files.py        atomic files, files of JSON lines, the lock of a folder
checkpoint.py   checkpoint.pt;  packing.py   its thousands of tensors as a few
environment.py  environment.json
log.py          <command>.log and the terminal
signals.py      SIGINT, SIGTERM and SIGHUP as a request to stop
tensorboard.py  tensorboard/
tracking.py     what a tracker is told, and what happens where it fails
"""

from nas_cli.run.checkpoint import read_archive
from nas_cli.run.files import write_atomically
from nas_cli.run.lookup import find_latest, find_run
from nas_cli.run.run import Run

__all__ = ["Run", "find_latest", "find_run", "read_archive", "write_atomically"]
