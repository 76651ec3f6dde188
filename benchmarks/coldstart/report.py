"""What a cold start costs, as it is printed and as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.coldstart.figures import TENTH, Alternation, Idling, Start, Switch, spread_of, to_json
from benchmarks.coldstart.variants import Warmup
from benchmarks.figures import Spread, ratios
from benchmarks.machine import other_load_text
from benchmarks.tables import key_values, table

LARGEST_FIRST = 1.5
"""The target: the first request after READY, as a multiple of the steady median."""
WORTH = 1.1
"""How much slower the first request has to be without keepwarm, in the median, for it to help."""
FEWEST_TURNS = 3
NUMBERS = {1: "first", 2: "second", TENTH: "tenth"}
HOW = (
    "Each latency is that of one request, none beside it, from a client that is warm: its libraries have carried "
    "requests to an earlier server, its pictures are ready, and its connection has carried the model's metadata. What "
    "is new is the server, and at a start or a switch the connection's first large message, which the row of a new "
    "connection measures alone. The files are in the page cache."
)


@dataclass(frozen=True, kw_only=True)
class ColdstartReport:
    """Every turn, and what follows from all of them."""

    models: tuple[str, ...]
    served_by: str
    """Their configuration."""
    repeats: int
    requests: int
    starts: tuple[Start, ...]
    switches: tuple[Switch, ...]
    alternations: tuple[Alternation, ...]
    idlings: tuple[Idling, ...]
    other_cpu_share: float
    environment: dict[str, str]

    def of(self, model: str, warmup: Warmup) -> list[Start]:
        """The starts of one arrangement, turn by turn."""
        return [each for each in self.starts if (each.model, each.warmup) == (model, warmup)]

    @property
    def arrangements(self) -> list[tuple[str, Warmup]]:
        """In the order in which they were measured."""
        return list(dict.fromkeys((each.model, each.warmup) for each in self.starts))

    @cached_property
    def first_ratios(self) -> dict[tuple[str, Warmup], Spread]:
        """First request / steady median of the same start."""
        return {key: Spread.of(each.requests.ratio(1) for each in self.of(*key)) for key in self.arrangements}

    def met(self, model: str) -> bool:
        """Whether the model, as it was built, meets the target."""
        return self.first_ratios[model, Warmup.AS_BUILT].median <= LARGEST_FIRST

    @property
    def all_met(self) -> bool:
        """Whether every model does, as far as starts were measured."""
        return all(map(self.met, self.started))

    @property
    def started(self) -> list[str]:
        """The models whose starts were measured."""
        return list(dict.fromkeys(each.model for each in self.starts))

    def to_json(self) -> dict[str, Any]:
        """Every latency of every turn, and the figures that are printed."""
        return {
            "benchmark": "coldstart",
            "version": 1,
            "models": list(self.models),
            "served_by": self.served_by,
            "repeats": self.repeats,
            "requests": self.requests,
            "starts": [to_json(each) for each in self.starts],
            "switches": [to_json(each) for each in self.switches],
            "alternations": [to_json(each) for each in self.alternations],
            "idlings": [to_json(each) for each in self.idlings],
            "targets": [
                {
                    "model": model,
                    "required": LARGEST_FIRST,
                    "reached": self.first_ratios[model, Warmup.AS_BUILT].median,
                    "met": self.met(model),
                }
                for model in self.started
            ],
            "keepwarm": self.keepwarm_text(),
            "other_cpu_share": self.other_cpu_share,
            "environment": self.environment,
        }

    def to_text(self) -> str:
        """What is printed."""
        parts = [
            f"cold start of {', '.join(self.models)}, served by {self.served_by}: {self.repeats} turns, "
            f"{self.requests} requests after each start; medians over the turns (lowest-highest); steady is the "
            "median of the second half\n" + other_load_text(self.other_cpu_share),
            HOW,
            self._start_text(),
            self._switch_text(),
            self._idle_text(),
            "\n".join(self.target_lines()),
            key_values(self.environment),
        ]
        return "\n\n".join(filter(None, parts))

    def target_lines(self) -> list[str]:
        """One line for each model."""
        lines = []
        for model in self.started:
            reached = {warmup: each.median for (name, warmup), each in self.first_ratios.items() if name == model}
            others = ", ".join(f"{warmup} {each:.2f}" for warmup, each in reached.items() if warmup != Warmup.AS_BUILT)
            lines.append(
                f"target: {model}, first request after READY at most {LARGEST_FIRST:g} x the steady median: "
                f"{reached[Warmup.AS_BUILT]:.2f}, {'met' if self.met(model) else 'NOT MET'} ({others})"
            )
        return lines

    def keepwarm_text(self) -> str | None:
        """Whether keeping warm helped on this server; None where it was not measured."""
        kept = [each for each in self.idlings if each.keepwarm_s is not None]
        alone = [each for each in self.idlings if each.keepwarm_s is None]
        if not kept:
            return None
        gain = ratios([each.requests.ratio(1) for each in alone], [each.requests.ratio(1) for each in kept])
        measured = (
            f"after {kept[0].idle_s:g} s idle the first request took {_ratio(alone)} x the steady median, kept warm "
            f"every {kept[0].keepwarm_s:g} s {_ratio(kept)} x; without / with, turn by turn: {_short(gain)}"
        )
        if len(kept) < FEWEST_TURNS:
            verdict = f"{len(kept)} of the {FEWEST_TURNS} turns that it takes to say whether keepwarm helps"
        elif gain.lowest > 1 and gain.median >= WORTH:
            verdict = "keepwarm helps on this server"
        elif gain.highest < 1 and gain.median <= 1 / WORTH:
            verdict = "keepwarm makes it worse on this server"
        else:
            verdict = (
                "no help that these turns could show on this server (to help, the first request would have to be "
                f"slower without it in every turn, and {WORTH - 1:.0%} slower in the median)"
            )
        return f"{verdict}: {measured}"

    def _start_text(self) -> str:
        if not self.starts:
            return "starts: not measured (--parts)"
        header = ("seconds from the start of the process", "server up", "model loaded in", "READY")
        milliseconds = ("milliseconds of a request", *NUMBERS.values(), "steady", "first / steady")
        return f"{table(header, self._readiness())}\n\n{table(milliseconds, self._start_rows())}"

    def _readiness(self) -> list[tuple[str, ...]]:
        rows = []
        for model, warmup in self.arrangements:
            starts = self.of(model, warmup)
            times: tuple[Sequence[float | None], ...] = (
                [each.up_s for each in starts],
                [each.load_s for each in starts],
                [each.ready_s for each in starts],
            )
            rows.append((f"{model}, {warmup}", *(_seconds(each) for each in times)))
        return rows

    def _start_rows(self) -> list[tuple[str, ...]]:
        rows = []
        for model in self.started:
            for name, warmup in self.arrangements:
                if name == model:
                    requests = [each.requests for each in self.of(model, warmup)]
                    rows.append(
                        (
                            f"{model}, {warmup}",
                            *(f"{spread_of(requests, number).median:.1f}" for number in NUMBERS),
                            f"{Spread.of(each.steady_ms for each in requests).median:.1f}",
                            _short(self.first_ratios[name, warmup]),
                        )
                    )
            warm = self.of(model, Warmup.AS_BUILT)
            new = Spread.of(each.new_connection_ms for each in warm)
            ratio = ratios([each.new_connection_ms for each in warm], [each.requests.steady_ms for each in warm])
            rows.append((f"{model}, a new connection to it when warm", f"{new.median:.1f}", "", "", "", _short(ratio)))
        return rows

    def _switch_text(self) -> str:
        if not self.switches:
            return "switching between models: not measured (it takes a second --model)"
        rows = []
        for model in dict.fromkeys(each.to for each in self.switches):
            switches = [each for each in self.switches if each.to == model]
            requests = [each.requests for each in switches]
            rows.append(
                (
                    model,
                    _seconds([each.load_s for each in switches]),
                    _seconds([each.unload_s for each in switches]),
                    *(f"{spread_of(requests, number).median:.1f}" for number in NUMBERS),
                    f"{Spread.of(each.steady_ms for each in requests).median:.1f}",
                    _short(Spread.of(each.ratio(1) for each in requests)),
                )
            )
        header = ("switched to", "loaded in, s", "other unloaded in, s", *NUMBERS.values(), "steady", "first / steady")
        return f"{table(header, rows)}\n\n{self._alternation_text()}"

    def _alternation_text(self) -> str:
        pairs = dict.fromkeys(tuple(each.alone_ms) for each in self.alternations)
        rows = []
        for pair in pairs:
            turns = [each for each in self.alternations if tuple(each.alone_ms) == pair]
            for model in pair:
                alone, alternating = [t.alone_ms[model] for t in turns], [t.alternating_ms[model] for t in turns]
                other = pair[1] if model == pair[0] else pair[0]
                rows.append(
                    (
                        f"{model}, in turns with {other}",
                        f"{Spread.of(alone).median:.1f}",
                        f"{Spread.of(alternating).median:.1f}",
                        _short(ratios(alternating, alone)),
                    )
                )
        return table(("both loaded, milliseconds", "asked alone", "alternating", "alternating / alone"), rows)

    def _idle_text(self) -> str:
        rows = []
        for way in dict.fromkeys(each.keepwarm_s for each in self.idlings):
            idlings = [each for each in self.idlings if each.keepwarm_s == way]
            requests = [each.requests for each in idlings]
            rows.append(
                (
                    f"{idlings[0].model}, {idlings[0].idle_s:g} s idle"
                    + (f", kept warm every {way:g} s" if way else ""),
                    f"{Spread.of(each.before_ms for each in idlings).median:.1f}",
                    *(f"{spread_of(requests, number).median:.1f}" for number in NUMBERS),
                    f"{Spread.of(each.steady_ms for each in requests).median:.1f}",
                    _short(Spread.of(each.ratio(1) for each in requests)),
                )
            )
        if not rows:
            return "idling: not measured (--parts)"
        header = ("milliseconds of a request", "before", *NUMBERS.values(), "steady", "first / steady")
        return "\n".join(filter(None, (table(header, rows), self.keepwarm_text())))


def _short(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.lowest:.2f}-{spread.highest:.2f})"


def _ratio(idlings: Sequence[Idling]) -> str:
    return f"{Spread.of(each.requests.ratio(1) for each in idlings).median:.2f}"


def _seconds(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return _short(Spread.of(known)) if known else "–"
