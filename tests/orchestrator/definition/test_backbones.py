"""Sweeps over several backbones: the jobs of each alone, and what is refused."""

import pytest

from orchestrator.definition.sweep import Sweep
from scalearn.errors import UserError

ROWS = "name: a\nbenchmark: domains\ntargets: [apple]\nmethods: {scalearn: {learning_rate: [6e-3, 2e-2]}, adapter: {}}\n"


def nodes(backbone: str, more: str = "") -> tuple[str, ...]:
    return tuple(Sweep.from_text(f"{ROWS}backbone: {backbone}\n{more}").expand().nodes())


def test_several_backbones_have_the_jobs_of_each_alone() -> None:
    assert nodes("[minilm]") == nodes("minilm")
    both = nodes("[minilm, roberta-base]")
    assert set(both) == {*nodes("minilm"), *nodes("roberta-base")}
    assert len(both) == 2 * len(nodes("minilm"))
    assert both[0].startswith("domains/minilm/")


def test_transfer_jobs_stack_sources_of_their_own_backbone() -> None:
    for job in Sweep.from_text(f"{ROWS}backbone: [minilm, roberta-base]").expand():
        assert {parent.config.backbone for parent in job.parents} <= {job.config.backbone}


@pytest.mark.parametrize(
    ("backbone", "more", "words"),
    [
        ("[minilm, minilm]", "", "'backbone' holds minilm twice"),
        ("[]", "", "'backbone' is empty"),
        ("[minilm, 3]", "", r"'backbone\[1\]' must be text"),
        ("[roberta-base, robrta-base]", "", "Unknown backbone 'robrta-base'"),
        ("[roberta-base, llama-3.2-1b]", "", "of architecture 'llama': write sources: {method: lora}"),
        ("[llama-3.2-1b, minilm]", "data: {max_length: 600}", "is 600, but minilm reads at most 512 tokens"),
    ],
)
def test_what_no_backbone_of_the_list_takes_is_refused_in_one_sentence(backbone: str, more: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        nodes(backbone, more)
    assert len(set(str(error.value).splitlines())) == len(str(error.value).splitlines())
