"""deploy/keepwarm-cronjob.yaml against Kubernetes' schemas, and against the command that it runs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from clients import cli
from clients.connection_arguments import connection_options

PROJECT = Path(__file__).parents[3]
CRON_JOB: dict[str, Any] = yaml.safe_load((PROJECT / "deploy" / "keepwarm-cronjob.yaml").read_text())
KUBERNETES = ("1.25", "1.31", "1.37")


def pod(cron_job: dict[str, Any]) -> dict[str, Any]:
    return cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def container(cron_job: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod(cron_job)["containers"]
    return only


@pytest.mark.parametrize("version", KUBERNETES)
def test_it_is_one_for_kubernetes(version: str) -> None:
    assert kubernetes_validate.validate(CRON_JOB, version, strict=True) == version


def misspelled(cron_job: dict[str, Any]) -> None:
    cron_job["spec"]["scedule"] = cron_job["spec"].pop("schedule")


def number_for_text(cron_job: dict[str, Any]) -> None:
    container(cron_job)["args"] = ["--requests", 3]


def one_level_too_high(cron_job: dict[str, Any]) -> None:
    cron_job["spec"]["template"] = cron_job["spec"]["jobTemplate"]["spec"].pop("template")


@pytest.mark.parametrize("slip", [misspelled, number_for_text, one_level_too_high])
def test_a_slip_is_found(slip: Callable[[dict[str, Any]], None]) -> None:
    cron_job = copy.deepcopy(CRON_JOB)
    slip(cron_job)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(cron_job, KUBERNETES[-1], strict=True)


def test_the_arguments_are_the_commands_and_run_it_once_against_one_server() -> None:
    python, flag, package, *command = container(CRON_JOB)["command"]
    assert (python, flag, package) == ("python", "-m", "clients")
    arguments = cli._parser().parse_args([*command, *container(CRON_JOB)["args"]])
    assert arguments.once
    assert arguments.url == ["grpc://triton:8001"]
    connection_options(arguments)


def test_a_round_has_an_end_that_comes_after_its_requests_could_fail() -> None:
    arguments = cli._parser().parse_args(["keepwarm", *container(CRON_JOB)["args"]])
    job = CRON_JOB["spec"]["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] > arguments.requests * arguments.timeout
    assert CRON_JOB["spec"]["concurrencyPolicy"] == "Forbid"
    assert {"backoffLimit", "ttlSecondsAfterFinished"} <= set(job)


def test_it_has_no_more_rights_than_it_needs() -> None:
    assert pod(CRON_JOB)["securityContext"]["runAsNonRoot"] is True
    assert pod(CRON_JOB)["securityContext"]["runAsUser"] > 0
    assert pod(CRON_JOB)["automountServiceAccountToken"] is False
    assert container(CRON_JOB)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "volumes" not in pod(CRON_JOB)
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod(CRON_JOB))
