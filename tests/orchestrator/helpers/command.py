"""`python -m tests.orchestrator.helpers.command ...`: `scalearn ...` with the double in place of training, on two CPUs."""

import functools
import sys

from orchestrator import cli
from orchestrator.commands import retry, run
from orchestrator.execution.options import Options
from tests.orchestrator.helpers.doubles import TRAIN


def _options(**given: object) -> Options:
    gpus = given.get("gpus")  # none unless asked for: what runs together must not depend on the machine
    return Options(**{**given, "cpus": given.get("cpus") or 2, "gpus": 0 if gpus is None else gpus}, train=TRAIN)


run.Options = retry.Options = functools.partial(_options)

if __name__ == "__main__":
    sys.exit(cli.main())
