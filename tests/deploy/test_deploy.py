"""What `deploy/` ships, as far as that can be checked without a cluster: it parses, fits its schema, and names what exists."""

import copy
import importlib.metadata
import io
import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from dockerfile_parse import DockerfileParser
from lightkube.models.core_v1 import PersistentVolumeClaim, PodSpec, PodTemplateSpec
from ray.autoscaler._private.util import prepare_config, validate_config

from orchestrator.cli import make_parser

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR"}


def checked(command: str) -> None:
    """Parse a `scalearn` command as the program would; a wrong option raises."""
    program, *arguments = shlex.split(command)
    assert program == "scalearn"
    make_parser().parse_args(arguments)


@pytest.fixture
def instructions() -> list[dict[str, Any]]:
    content = (DEPLOY / "docker" / "Dockerfile").read_bytes()
    return [item for item in DockerfileParser(fileobj=io.BytesIO(content)).structure if item["instruction"] != "COMMENT"]


def test_dockerfile_has_known_instructions_and_copies_what_exists(instructions, repository):
    assert {item["instruction"] for item in instructions} <= INSTRUCTIONS
    assert [item["instruction"] for item in instructions][:2] == ["ARG", "FROM"]
    copied = [source for item in instructions if item["instruction"] == "COPY" for source in item["value"].split()[:-1]]
    assert not [source for source in copied if not (repository / source).exists()]
    packaged = re.search(r"include = \[(.*)\]", (repository / "pyproject.toml").read_text())[1]
    assert {name.strip(' "*') for name in packaged.split(",")} <= set(copied)
    ignored = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)


def test_dockerfile_builds_for_cpu_and_cuda_and_does_not_run_as_root(instructions):
    values = {(item["instruction"], item["value"].split()[0]) for item in instructions}
    assert ("ARG", "ACCELERATOR=cpu") in values
    readme = (DEPLOY / "docker" / "README.md").read_text()
    assert "--build-arg ACCELERATOR=cuda" in readme
    users = [item["value"] for item in instructions if item["instruction"] == "USER"]
    assert users == ["scalearn"]


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def test_rayjob_has_the_fields_of_its_kind_and_a_command_that_parses():
    user_id = int(re.search(r"--uid (\d+)", (DEPLOY / "docker" / "Dockerfile").read_text())[1])
    job, claim = documents("kuberay/rayjob.yaml")
    assert (job["apiVersion"], job["kind"], claim["kind"]) == ("ray.io/v1", "RayJob", "PersistentVolumeClaim")
    known = {"entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
    assert set(job["spec"]) <= known
    checked(job["spec"]["entrypoint"])
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["rayVersion"] == importlib.metadata.version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["securityContext"]["fsGroup"] == user_id
        volumes = {volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"]}
        assert set(volumes.values()) == {claim["metadata"]["name"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            assert set(container["resources"]) == {"requests", "limits"}
    workers = cluster["workerGroupSpecs"][0]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]


def test_pods_and_volume_of_the_rayjob_fit_the_schema_of_kubernetes():
    job, claim = documents("kuberay/rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    pods = [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for kind, stated in [(PersistentVolumeClaim, claim), *((PodTemplateSpec, pod) for pod in pods)]:
        assert kind.from_dict(stated).to_dict() == stated  # a field that the kind has not would be dropped
    misspelt = {**pods[0]["spec"], "securityContxt": {"fsGroup": 1000}}
    assert PodSpec.from_dict(misspelt).to_dict() != misspelt
    with pytest.raises(msgspec.ValidationError, match=r"Expected `int \| null`, got `str` - at `\$\.securityContext\.fsGroup`"):
        PodSpec.from_dict({**pods[0]["spec"], "securityContext": {"fsGroup": "1000"}})


def test_ray_up_file_is_valid_by_rays_own_schema_and_check():
    (config,) = documents("ray-up/cluster.yaml")
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["max_workers"] == len(config["provider"]["worker_ips"])
    with pytest.raises(Exception, match="Additional properties"):
        validate_config({**prepared, "max_wrokers": 2})


def test_images_and_commands_of_the_readmes_are_those_of_the_files():
    for readme in DEPLOY.glob("*/README.md"):
        text = readme.read_text()
        assert len(text.strip().splitlines()) <= 7, f"{readme} is longer than a title and five lines"
        for command in re.findall(r"`(scalearn [^`]*)`", text):
            checked(command)
        for path in re.findall(r"deploy/[\w./-]+", text):
            assert (DEPLOY.parent / path).exists(), path
