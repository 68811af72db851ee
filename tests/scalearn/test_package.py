"""The package in a fresh program: what `import scalearn` gives, and what it does not load."""

import subprocess
import sys


def test_modules_are_attributes_that_load_when_they_are_used() -> None:
    program = """
import sys
import scalearn
scalearn.tasks.get_task("glue/rte"), scalearn.errors.UserError, scalearn.methods, scalearn.config.JobConfig
assert "torch" not in sys.modules
scalearn.data.load_task, scalearn.fit
for name in ("nothing", "_private", "no name", "tasks.glue"):
    assert not hasattr(scalearn, name), name
"""
    subprocess.run([sys.executable, "-c", program], check=True)
