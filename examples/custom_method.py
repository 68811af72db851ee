"""A method of your own: the sum of all sources, scaled by one learned number. CONTRIBUTING.md says how sweeps learn of such a method."""

import torch

import scalearn
from scalearn.backbone.encoder import Encoder
from scalearn.config import JobConfig
from scalearn.formats.source_adapters import SourceAdapters
from scalearn.methods.registry import Method, register_method
from scalearn.methods.source_branch import SourceBranch

LIMITS = {"backbone": "minilm", "train_rows": 32, "evaluation_rows": 20, "max_length": 16, "epochs": 1}
SOURCES = {"apple": "work/apple", "coachella": "work/coachella"}


class OneScale(SourceBranch):
    """What the method adds to the residual at each layer."""

    def __init__(self, sources: SourceAdapters) -> None:
        super().__init__(sources.stacks)
        self.scale = torch.nn.Parameter(torch.tensor(1.0 / len(sources.names)))

    def combined(self, site: int, hidden_states: torch.Tensor, bottleneck: torch.Tensor) -> torch.Tensor:
        """Return the sum of the sources' outputs, `[1, tokens, hidden]`."""
        stack = self.stacks[site]
        return stack.weighted_sum(bottleneck, self.scale.expand(stack.sources, 1))


def build(config: JobConfig, encoder: Encoder, sources: SourceAdapters | None) -> OneScale:
    """Build the branch of a job."""
    assert sources is not None
    return OneScale(sources)


def main() -> None:
    """Register the method, and train it on two sources."""
    register_method(
        Method(
            key="one_scale",
            title="One scale for all sources",
            family="two_stage",
            stage="transfer",
            order=290,
            builder="custom_method:build",
            needs_sources=True,
            optimisation={"learning_rate": 6e-3},
            count=lambda shape, sources, settings: 1,
        )
    )
    backbone = scalearn.load_backbone("minilm")
    for task, directory in SOURCES.items():
        scalearn.fit(scalearn.job(f"domains/{task}", "adapter", **LIMITS), directory, backbone=backbone)
    job = scalearn.job("domains/apple", "one_scale", sources=tuple(SOURCES), **LIMITS)
    model = scalearn.fit(job, "work/target", sources=SOURCES, backbone=backbone)
    print(f"scale: {model.branch.scale.item():.3f}")


if __name__ == "__main__":
    main()
