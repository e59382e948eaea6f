"""The process of a command: `nas`, or `python -m nas_cli`."""

import sys

from nas_cli import garbage
from nas_cli.cli import main


def nas() -> int:
    """Run the command line of this process; the result is its exit code."""
    garbage.put_off()
    code = main()
    garbage.leave()
    return code


if __name__ == "__main__":
    sys.exit(nas())
