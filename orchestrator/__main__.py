"""`python -m orchestrator`: the command line, where the program `scalearn` is not on the path."""

import sys

from orchestrator.cli import main

if __name__ == "__main__":
    sys.exit(main())
