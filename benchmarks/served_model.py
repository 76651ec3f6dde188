"""What a repository says of the model that tritonserver will serve on this machine's CPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.config_pbtxt import CPU_CONFIG_NAME
from builder.errors import RepositoryError
from builder.manifest import versions_of
from builder.runtimes import cpu_has_bf16
from builder.server_options import ServerOptions, check_repository
from clients.contract import Contract, contract_from_config
from clients.errors import ContractError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """One version of a model and how ``configs/cpu.pbtxt`` has it run."""

    repository: Path
    version: int
    graph: Path
    contract: Contract
    instances: int
    threads: int
    """OpenVINO's threads of all instances together."""
    inference_precision: str
    """OpenVINO's name of the arithmetic."""
    max_queue_delay_us: int


def find_served_model(repository: Path, name: str) -> ServedModel:
    """Read what would be served.

    Raises:
        ServerError: there is no such repository, model, or CPU configuration.
        RepositoryError: the configuration cannot be read, is of another contract, or names a version that is not there.
    """
    check_repository(ServerOptions(repository=repository, config_name=CPU_CONFIG_NAME, models=(name,)))
    config = _read_config(repository / name / "configs" / f"{CPU_CONFIG_NAME}.pbtxt")
    try:
        contract = contract_from_config(config, model=name)
    except ContractError as error:
        raise RepositoryError(f"{repository}: {error}") from error
    named = [int(each) for each in config.get("version_policy", {}).get("specific", {}).get("versions", [])]
    present = versions_of(repository / name)
    versions = [each for each in present if not named or each in named]
    if not versions:
        raise RepositoryError(
            f"{repository / name}: expected version {max(named, default=1)}, as configs/{CPU_CONFIG_NAME}.pbtxt has "
            f"it, found {', '.join(map(str, present)) or 'no version'}; build it again"
        )
    graph = repository / name / str(versions[0]) / "model.onnx"
    if not graph.is_file():
        raise RepositoryError(f"expected the served graph at {graph}, found nothing; build it again")
    parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", [])) or 1
    per_instance = int(parameters.get("inference_threads", max(1, len(os.sched_getaffinity(0)) // instances)))
    return ServedModel(
        repository=repository,
        version=versions[0],
        graph=graph,
        contract=contract,
        instances=instances,
        threads=instances * per_instance,
        inference_precision=_inference_precision(parameters.get("inference_precision", "f32")),
        max_queue_delay_us=int(config.get("dynamic_batching", {}).get("max_queue_delay_microseconds", 0)),
    )


def _inference_precision(asked: str) -> str:
    """What the served model makes of its parameter on this CPU."""
    return "f32" if asked == "bf16" and not cpu_has_bf16() else asked


def _read_config(path: Path) -> dict[str, Any]:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    try:
        message = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        reason = " ".join(str(error).split())
        raise RepositoryError(
            f"{path}: expected a Triton model configuration, got: {reason}; build it again"
        ) from error
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return config
