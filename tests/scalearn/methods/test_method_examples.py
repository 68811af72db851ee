"""The example of every method's page, run on a tiny encoder and very few rows; examples share their source adapters."""

import json
import re
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from orchestrator.definition.graph import Job
from orchestrator.definition.sweep import Sweep
from scalearn.methods.registry import METHODS
from scalearn.training.loop import train
from scalearn.training.pack import PackMember
from scalearn.training.runtime import Runtime
from tests.scalearn.helpers.small import save_backbone

PAGES = sorted((Path(__file__).parents[3] / "docs/methods").glob("*.md"))
EXAMPLE = re.compile(r"^## (?P<methods>.*?)\n(?:(?!^## ).)*?```yaml\n(?P<sweep>.*?)```", re.MULTILINE | re.DOTALL)
EXAMPLES = {
    method: found["sweep"]
    for page in PAGES
    for found in EXAMPLE.finditer(page.read_text("utf-8"))
    for method in found["methods"].split(", ")
}
SMALL = (
    "sources.tasks=[apple, coachella]",
    "data={train_rows: 24, evaluation_rows: 12, max_length: 24}",
    "training={epochs: 1, joint: {max_steps: 2, evaluate_every: 2}}",
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> str:
    return save_backbone(tmp_path_factory.mktemp("backbone"), tokenizer)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where jobs leave their results, by node: what several examples need is trained once."""
    return tmp_path_factory.mktemp("work")


def directory_of(job: Job, work: Path) -> Path:
    """Trains a job after its parents, unless an earlier example has; returns what it left."""
    directory = work / job.node
    if not directory.exists():
        parents = {name: directory_of(parent, work) for name, parent in zip(job.parent_names, job.parents, strict=True)}
        directory.mkdir(parents=True)
        (outcome,) = train([PackMember(job.config, directory, parents)], Runtime(device="cpu", threads=1), lambda *_: None)
        assert outcome.error is None, outcome.error
    return directory


def test_every_method_has_an_example() -> None:
    assert set(EXAMPLES) == set(METHODS)


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
def test_example_of_a_methods_page_runs(method: str, backbone: str, work: Path) -> None:
    settings: dict[str, dict[str, object]] = {
        "compacter_pp": {"reduction_factor": 4},  # whose width must divide by 4
        "adaptersoup": {"sentence_encoder": backbone},
    }
    own = [f"methods.{method}.settings.{name}={json.dumps(value)}" for name, value in settings.get(method, {}).items()]
    graph = Sweep.from_text(EXAMPLES[method], overrides=(f"backbone={backbone}", *SMALL, *own)).expand()
    job = next(job for job in graph if job.config.method == method)
    result = json.loads((directory_of(job, work) / "result.json").read_text())
    assert set(result["scores"]) == set(job.tasks)
