"""The share of a search that goes into its checkpoints.

    OMP_NUM_THREADS=1 python benchmarks/checkpoints.py [KEY=VALUE ...]

Runs `nas search` with these settings in a folder that is thrown away, and times what is written after each
epoch.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from nas_cli.cli import main as nas
from nas_cli.run import Run


def main() -> None:
    saving, seconds = Run.save_checkpoint, []

    def timed(run: Run, state: Mapping[str, object]) -> None:
        started = time.perf_counter()
        saving(run, state)
        seconds.append(time.perf_counter() - started)

    Run.save_checkpoint = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        if nas(["search", *sys.argv[1:], f"hydra.run.dir={folder}/run"]):
            sys.exit(1)
        run = Run.open(Path(folder) / "run")
        size = (run.folder / "checkpoint.pt").stat().st_size
        share = sum(seconds) / run.seconds
    each = 1e3 * sum(seconds) / len(seconds)
    print(f"{len(seconds)} checkpoints of {size / 2**20:.1f} MB, {each:.1f} ms each:", end=" ")
    print(f"{100 * share:.2f} % of {run.seconds:.1f} s")


if __name__ == "__main__":
    main()
