"""The whole measurement, its turns in rotation, so that a slow minute of the machine meets every arrangement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from benchmarks.coldstart.client import WarmClient
from benchmarks.coldstart.figures import TENTH, Alternation, Idling, Start, Switch
from benchmarks.coldstart.report import ColdstartReport
from benchmarks.coldstart.scenarios import Model, Others, idle, start, switch_and_alternate
from benchmarks.coldstart.server import logged_server
from benchmarks.coldstart.variants import variants_of, write_variant
from benchmarks.machine import environment
from benchmarks.pictures import letterboxed, picture_paths
from benchmarks.served import server_version
from benchmarks.served_model import find_served_model
from builder.errors import SpecError

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ColdstartOptions:
    """What was asked for."""

    models: tuple[str, ...]
    repository: Path
    config_name: str | None
    images: tuple[Path, ...]
    repeats: int
    requests: int
    """After each start; the second half is the steady one."""
    idle_s: float
    keepwarm_s: float | None
    parts: frozenset[str]
    """Of ``starts``, ``switching`` and ``idling``."""


def measure_coldstart(options: ColdstartOptions, argv: Sequence[str], progress: Progress) -> ColdstartReport:
    """Start, switch and idle; ``progress`` gets a line as each turn ends.

    Raises:
        BuilderError: no such model, it cannot be copied, or tritonserver cannot be started.
        ClientError: tritonserver refused a request.
    """
    _check(options)
    models = [_model(options, name) for name in options.models]
    others = Others()
    version = _rehearsed(options, models[0], progress)
    starts: list[Start] = []
    switches: list[Switch] = []
    alternations: list[Alternation] = []
    idlings: list[Idling] = []
    if "starts" in options.parts:
        with tempfile.TemporaryDirectory() as folder:
            starts = _starts(options, models, Path(folder), others, progress)
    if "switching" in options.parts:
        switches, alternations = _switches(options, models, others, progress)
    if "idling" in options.parts:
        idlings = _idlings(options, models[0], others, progress)
    return ColdstartReport(
        served_by=f"configs/{options.config_name}.pbtxt" if options.config_name else "config.pbtxt",
        models=options.models,
        repeats=options.repeats,
        requests=options.requests,
        starts=tuple(starts),
        switches=tuple(switches),
        alternations=tuple(alternations),
        idlings=tuple(idlings),
        other_cpu_share=others.share(),
        environment=environment(argv, tritonserver=version),
    )


def _check(options: ColdstartOptions) -> None:
    if len(set(options.models)) < len(options.models):
        raise SpecError(f"--model: expected each model once, got {', '.join(options.models)}")
    if options.requests < 2 * TENTH:
        raise SpecError(f"--requests: expected {2 * TENTH} or more, got {options.requests}")
    if options.keepwarm_s is not None and not options.keepwarm_s < options.idle_s:
        raise SpecError(
            f"--keepwarm-s: expected less than the {options.idle_s:g} s of --idle-s, got {options.keepwarm_s:g}: "
            "nothing would be sent between the first round and the end"
        )


def _model(options: ColdstartOptions, name: str) -> Model:
    contract = find_served_model(options.repository, name).contract
    return Model(
        contract=contract,
        pictures_PHWC=letterboxed(picture_paths(options.images), contract.size_hw),
        config_name=options.config_name,
    )


def _rehearsed(options: ColdstartOptions, model: Model, progress: Progress) -> str:
    """Start a server and send it requests, none of which counts: afterwards this process's libraries are warm, and
    tritonserver's and the model's files are in the page cache. The server's version.
    """
    with logged_server(options.repository, (model.name,), model.config_name) as (server, _):
        with WarmClient(server.grpc_url, model.contract, model.pictures_PHWC) as client:
            client.latencies_ms(options.requests)
        version = server_version(server)
    progress("rehearsed: the client is warm, and so are the files")
    return version


def _starts(
    options: ColdstartOptions, models: Sequence[Model], folder: Path, others: Others, progress: Progress
) -> list[Start]:
    arrangements = [(model, each) for model in models for each in variants_of(options.repository, model.name)]
    repositories = {
        each: write_variant(options.repository, options.models, each, folder)
        for each in {warmup for _, warmup in arrangements}
    }
    starts = []
    for turn in range(options.repeats):
        for model, warmup in arrangements:
            starts.append(start(repositories[warmup], model, warmup, options.requests, others))
            last = starts[-1]
            progress(
                f"turn {turn + 1} of {options.repeats}: {model.name}, {warmup}: READY after {last.ready_s:.2f} s, "
                f"first request {last.requests.nth_ms(1):.1f} ms, steady {last.requests.steady_ms:.1f} ms"
            )
    return starts


def _switches(
    options: ColdstartOptions, models: Sequence[Model], others: Others, progress: Progress
) -> tuple[list[Switch], list[Alternation]]:
    switches: list[Switch] = []
    alternations: list[Alternation] = []
    for turn in range(options.repeats):
        for pair in pairwise(models):
            came, alternation = switch_and_alternate(options.repository, pair, options.requests, others)
            switches += came
            alternations.append(alternation)
            progress(f"turn {turn + 1} of {options.repeats}: switched between {pair[0].name} and {pair[1].name}")
    return switches, alternations


def _idlings(options: ColdstartOptions, model: Model, others: Others, progress: Progress) -> list[Idling]:
    ways = [None] if options.keepwarm_s is None else [None, options.keepwarm_s]
    idlings = []
    with logged_server(options.repository, (model.name,), model.config_name) as (server, _):
        for turn in range(options.repeats):
            for keepwarm_s in ways:
                last = idle(
                    server,
                    model,
                    idle_s=options.idle_s,
                    keepwarm_s=keepwarm_s,
                    requests=options.requests,
                    others=others,
                )
                idlings.append(last)
                progress(
                    f"turn {turn + 1} of {options.repeats}: {options.idle_s:g} s idle"
                    + (f", kept warm every {keepwarm_s:g} s" if keepwarm_s else "")
                    + f": first request {last.requests.nth_ms(1):.1f} ms, before {last.before_ms:.1f} ms"
                )
    return idlings
