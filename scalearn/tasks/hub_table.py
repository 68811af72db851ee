"""The table of all published data on the hub.

A revision is a commit, or `refs/convert/parquet`, the hub's automatic conversion of data sets that began as scripts, which `datasets` no
longer runs. If a pinned revision has no parquet files, the conversion is read instead.
"""

from dataclasses import dataclass

from scalearn.tasks.task import HubSource

CONVERSION = "refs/convert/parquet"


@dataclass(frozen=True)
class HubDataset:
    """Repository and revision of a benchmark."""

    name: str
    revision: str
    hidden_label: str | None = None


HUB = {
    "glue": HubDataset("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", "-1"),
    "super_glue": HubDataset("aps/super_glue", "3de24cf8022e94f4ee4b9d55a6f539891524d646", "-1"),
    "humset": HubDataset("nlp-thedeep/humset", CONVERSION),
}


def hub_source(benchmark: str, config: str) -> HubSource:
    """Return the hub source of a benchmark's task. GLUE and SuperGLUE have one configuration per task."""
    dataset = HUB[benchmark]
    return HubSource(dataset.name, config, dataset.revision, dataset.hidden_label)
