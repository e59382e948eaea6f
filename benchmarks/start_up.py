"""How long commands take that have next to nothing to do, beside the import of torch that most of them need.

    python benchmarks/start_up.py [rounds]

Seconds from the shell to the end, in turn, after a round that is not counted. The search is one step on the
digits, with all that a search does: it tries its steps out, trains, derives, scores, draws, and writes its
folder and its page.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

NAS = (sys.executable, "-m", "nas_cli")
COMMANDS = {
    "import torch": (sys.executable, "-c", "import torch"),
    "nas --help": (*NAS, "--help"),
    "nas search --help": (*NAS, "search", "--help"),
    "nas search, one step": (*NAS, "search", "recipe.epochs=1", "recipe.steps_per_epoch=1"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rounds", nargs="?", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = [
            {name: seconds_of(command, folder) for name, command in COMMANDS.items()}
            for _ in range(arguments.rounds + 1)
        ]
    for name in COMMANDS:
        times = [found[name] for found in rounds[1:]]
        spread = f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}, n={len(times)})"
        print(f"{name:<22} {spread}")


def seconds_of(command: Sequence[str], folder: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
