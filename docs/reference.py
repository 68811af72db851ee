"""Write what the documentation takes from the code: docs/sweep.schema.json, and the tables of keys in docs/sweeps.md.

    python docs/reference.py

A line `<!-- keys: CLASS ... -->` stands above each table. The classes are those of `orchestrator.definition.schema`; besides them,
`OptimisationConfig` has the keys of `training`, and `own_task` those of a definition in `tasks`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from orchestrator.definition import schema
from orchestrator.definition.json_schema import json_schema, meanings
from scalearn.tasks.user_task import KEYS

HERE = Path(__file__).parent
TABLE = re.compile(r"(?<=<!-- keys: )(?P<classes>[\w ]+) -->\n(?:\|.*\n)+")
HEAD = "| key | default | meaning |\n|---|---|---|\n"


def written() -> dict[Path, str]:
    """Return the content that each written file should have."""
    page = HERE / "sweeps.md"
    return {
        HERE / "sweep.schema.json": json.dumps(json_schema(), indent=1, ensure_ascii=False) + "\n",
        page: TABLE.sub(lambda found: f"{found['classes']} -->\n{HEAD}{table(found['classes'].split())}", page.read_text(encoding="utf-8")),
    }


def table(classes: list[str]) -> str:
    """Return the rows for the keys that some classes have themselves, not from others."""
    rows = [row for name in classes for row in (task_rows() if name == "own_task" else block_rows(name))]
    return "".join(f"| `{key}` |{f' {default} ' if default else ' '}| {meaning} |\n" for key, default, meaning in rows)


def task_rows() -> Iterator[tuple[str, str, str]]:
    """Return key, default and meaning of each key of a task's definition."""
    for key, meaning in KEYS.items():
        yield key, "required" if key == "columns" else "", meaning


def block_rows(name: str) -> Iterator[tuple[str, str, str]]:
    """Return key, default and meaning of each key that a class has itself."""
    fields = getattr(schema, {"OptimisationConfig": "Optimisation"}.get(name, name)).model_fields
    for key, meaning in meanings()[name].items():
        yield key, default_of(fields[key]), meaning


def default_of(field: FieldInfo) -> str:
    """Return what the table says of a default: nothing for one that is empty, since the key's meaning says what that does."""
    value: Any = field.default
    if field.is_required():
        return "required"
    if isinstance(value, dict) and set(value) == {schema.DEFAULT}:
        value = list(value[schema.DEFAULT])
    if isinstance(value, BaseModel) or value in ({}, (), "") or field.annotation is type(None):
        return ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value if isinstance(value, str) else json.dumps(value)}`"


if __name__ == "__main__":
    for file, content in written().items():
        file.write_text(content, encoding="utf-8")
