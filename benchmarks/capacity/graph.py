"""The served graph that an estimate is made of: a published version's, or what a build of the weights would serve."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.capacity.bounds import Graph
from builder.errors import RepositoryError

if TYPE_CHECKING:
    from builder.artifacts import OnnxModel


def published_graph(repository: Path, name: str) -> Graph:
    """The graph of the model's newest version.

    Raises:
        RepositoryError: there is no such model, or its manifest does not say how it is served.
    """
    from builder.deployment import deployment_of
    from builder.manifest import read_manifest, versions_of

    versions = versions_of(repository / name)
    if not versions:
        there = sorted(path.name for path in repository.iterdir() if path.is_dir()) if repository.is_dir() else []
        raise RepositoryError(
            f"expected a published model {name} in {repository}, found {', '.join(there) or 'none'}; publish one with: "
            "python -m builder build"
        )
    folder = repository / name / str(versions[0])
    try:
        build = read_manifest(folder).get("build", {})
    except RepositoryError as error:
        raise RepositoryError(f"{folder}: {error}") from error
    return _graph(deployment_of(name, folder, build).model)


def graph_of_weights(weights: Path, precision: str, imgsz: str | None) -> Graph:
    """The graph that a build would serve, by the stages that a build takes it from.

    Raises:
        BuilderError: the weights or the request are at fault.
    """
    from builder.artifacts import Precision
    from builder.console import stage_line
    from builder.spec import BuildSpec
    from builder.stages import Stages
    from builder.weights import find_weights

    flags = {"weights": weights, "precision": precision, "imgsz": imgsz}
    spec = BuildSpec.from_sources({name: value for name, value in flags.items() if value is not None}, None)
    # Ultralytics logs to stdout, which is the report's.
    with contextlib.redirect_stdout(sys.stderr):
        stages = Stages(
            spec=spec,
            weights=find_weights(spec.weights),
            report=lambda stage: print(stage_line(stage), file=sys.stderr, flush=True),
        )
        network = stages.network()
        return _graph(stages.served(network if spec.precision is Precision.FP32 else stages.converted(network)))


def _graph(model: OnnxModel) -> Graph:
    from builder.graph_cost import graph_cost

    return Graph(model=model, cost=graph_cost(model.path))
