"""The names of all jobs of all shipped sweeps, as they were recorded: a name that changes is a job that is trained again."""

import hashlib

import pytest

from orchestrator.definition.sweep import Sweep, shipped_sweeps

RECORDED = {
    # sweep: number of jobs, beginning of the SHA-256 of their sorted names, which hold their fingerprints
    "all_tasks_smoke": (45, "c727f150dfc9e32d"),
    "architectures": (960, "1a66c607fff9c735"),
    "compositions": (1665, "ed30a04f0316b14d"),
    "domains_interference": (114, "772892216ea3aaca"),
    "domains_ladder": (183, "546fcf47ced995f1"),
    "domains_sources": (148, "068742aaba12554e"),
    "domains_unequal": (162, "82b3121351c6caa6"),
    "few_shot": (968, "4a6b2c6a35fa3817"),
    "glue": (588, "6f0d944afc291434"),
    "glue_large": (280, "10bf938dc6e6df6c"),
    "glue_llama": (145, "df70ba52a0c279ba"),
    "glue_smoke": (18, "088580a62b71ada6"),
    "gsg": (1204, "24f3606cedbdb5aa"),
    "gsg_large": (511, "c877a0c1d23f1e7a"),
    "humset": (181, "e3936d2013271f73"),
    "humset_large": (181, "1b46806ac71bbd98"),
    "interference": (680, "8c4d9e24794e592f"),
    "known_beforehand": (713, "be3e241fbc23e240"),
    "ladder": (240, "fcf0706b3fe974a2"),
    "leave_one_out": (224, "6521f88275c6840c"),
    "minilm_glue": (48, "d8b4fe0fd07ac8e9"),
    "probing": (2248, "5fbd15116cc8aca0"),
    "probing_pairs": (1723, "4829f401515da543"),
    "quickstart": (111, "028e19a62bba401d"),
    "quickstart_all": (115, "0e66cf288eb32a82"),
    "quickstart_lora": (93, "d4c368afd24f0074"),
    "super_glue": (742, "f860a726819018c2"),
    "super_glue_large": (280, "44f4984febc42a88"),
    "tuning": (11, "2ef7efb37791ca55"),
    "unequal_sources": (720, "a84f3950f8dc370b"),
}
"""Whoever changes what a job computes raises the schema version of the jobs concerned, and records here what follows from it."""

ON_EXCERPTS = ("all_tasks_smoke", "glue_smoke", "minilm_glue")
"""Sweeps over rows that lie beside the clone."""


def test_every_shipped_sweep_is_recorded() -> None:
    assert set(RECORDED) == set(shipped_sweeps())


@pytest.mark.parametrize("name", RECORDED)
def test_names_of_a_shipped_sweep_are_those_recorded(name: str, request: pytest.FixtureRequest) -> None:
    overrides = [f"data.root={request.getfixturevalue('shared') / 'benchmarks'}"] if name in ON_EXCERPTS else []
    nodes = sorted(Sweep.load(name, overrides).expand().nodes())
    assert (len(nodes), hashlib.sha256("\n".join(nodes).encode()).hexdigest()[:16]) == RECORDED[name]
