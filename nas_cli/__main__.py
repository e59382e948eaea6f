"""`python -m nas_cli` is `nas`."""

import sys

from nas_cli.cli import main

if __name__ == "__main__":
    sys.exit(main())
