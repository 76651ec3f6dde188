"""deploy/build-job.yaml against Kubernetes' schemas, and against what the builder knows.

The schemas come with kubernetes-validate, the strict ones, in which a field that does not exist is an error.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from builder import cli
from builder.gpus import find_gpu, known_gpus
from builder.releases import find_release

PROJECT = Path(__file__).parents[3]
JOBS: list[dict[str, Any]] = list(yaml.safe_load_all((PROJECT / "deploy" / "build-job.yaml").read_text()))
KUBERNETES = ("1.25", "1.31", "1.37")


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


def container(job: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(job)["containers"]
    return only


def plan_arguments(job: dict[str, Any]) -> argparse.Namespace:
    """What ``python -m builder plan`` makes of the Job's arguments."""
    shell, script, *arguments = container(job)["args"]
    assert (shell, script) == ("sh", "/project/deploy/build_plan.sh")
    return cli.parser().parse_args(["plan", *arguments])


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["metadata"]["name"])
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_job_is_one_for_kubernetes(job: dict[str, Any], version: str) -> None:
    assert kubernetes_validate.validate(job, version, strict=True) == version


def misspelled(job: dict[str, Any]) -> None:
    pod(job)["nodeSelectors"] = pod(job).pop("nodeSelector")


def number_for_text(job: dict[str, Any]) -> None:
    container(job)["args"][-1] = 26.09


def text_for_number(job: dict[str, Any]) -> None:
    job["spec"]["backoffLimit"] = "one"


def one_level_too_high(job: dict[str, Any]) -> None:
    job["spec"]["restartPolicy"] = pod(job).pop("restartPolicy")


def no_name(job: dict[str, Any]) -> None:
    del container(job)["name"]


@pytest.mark.parametrize("slip", [misspelled, number_for_text, text_for_number, one_level_too_high, no_name])
def test_a_slip_is_found(slip: Callable[[dict[str, Any]], None]) -> None:
    job = copy.deepcopy(JOBS[0])
    slip(job)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, KUBERNETES[-1], strict=True)


def test_the_jobs_are_one_per_gpu_and_differ_in_nothing_else() -> None:
    gpus = []
    for job in copy.deepcopy(JOBS):
        arguments = container(job)["args"]
        gpu = arguments.pop(arguments.index("--gpu") + 1)
        assert job["metadata"].pop("name") == f"build-plan-{gpu}"
        del pod(job)["nodeSelector"]
        gpus.append((gpu, job))
    assert len({gpu for gpu, _ in gpus}) == len(JOBS) > 1
    assert all(job == gpus[0][1] for _, job in gpus)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["metadata"]["name"])
def test_the_arguments_are_the_builders_and_name_gpu_and_release_that_it_knows(job: dict[str, Any]) -> None:
    arguments = plan_arguments(job)
    release = find_release(arguments.triton)
    assert container(job)["image"] == release.image
    assert find_gpu(arguments.gpu).name in known_gpus()
    assert str(arguments.repository) == "/models"


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["metadata"]["name"])
def test_a_job_runs_on_a_node_with_its_gpu(job: dict[str, Any]) -> None:
    gpu = find_gpu(plan_arguments(job).gpu)
    # GPU Feature Discovery labels a node with the driver's name of its GPU, "-" for each space.
    drivers_names = {name.replace(" ", "-") for each in gpu.device_names for name in (each, f"NVIDIA {each}")}
    assert pod(job)["nodeSelector"]["nvidia.com/gpu.product"] in drivers_names
    assert container(job)["resources"]["limits"]["nvidia.com/gpu"] == 1


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["metadata"]["name"])
def test_a_job_has_no_more_rights_than_it_needs_and_an_end(job: dict[str, Any]) -> None:
    assert pod(job)["securityContext"]["runAsNonRoot"] is True
    assert pod(job)["securityContext"]["runAsUser"] > 0
    assert pod(job)["automountServiceAccountToken"] is False
    rights = container(job)["securityContext"]
    assert rights == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod(job))
    assert {"backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"} <= set(job["spec"])


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job["metadata"]["name"])
def test_every_mount_has_its_volume_and_what_is_written_is_no_image(job: dict[str, Any]) -> None:
    mounts = {mount["name"]: mount for mount in container(job)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
    assert set(mounts) == set(volumes)
    assert volumes["models"]["persistentVolumeClaim"] == {"claimName": "model-repository"}
    assert mounts["models"] == {"name": "models", "mountPath": "/models"}
    assert mounts["project"]["readOnly"] is True
    assert {each["value"] for each in container(job)["env"]} == {mounts["scratch"]["mountPath"]}
    assert "emptyDir" in volumes["scratch"]
