"""What the doctor says: a finding, and on what a repository shall be served."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from builder.gpus import GpuTarget
    from builder.releases import TritonRelease


class Severity(enum.StrEnum):
    """What a finding means for whoever starts the server."""

    FAILS = "fails to load"
    WARNING = "warning"
    """It loads, and is not what it was meant to be."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong with a repository, or with where it shall be served."""

    severity: Severity
    check: str
    """Which check found it: ``plan-version``."""
    where: str
    """The file, as seen from the repository: ``shapes/1/model_sm75.plan``; or the GPU or driver."""
    what: str
    """What was expected and what is there."""
    fix: str

    def __str__(self) -> str:
        """Two lines: what and where, and the fix."""
        return f"{self.severity}: {self.where}: {self.what}\n    fix: {self.fix}"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"severity": self.severity.value}


def fails(check: str, where: str, what: str, fix: str) -> Finding:
    """A finding by which the model does not load."""
    return Finding(severity=Severity.FAILS, check=check, where=where, what=what, fix=fix)


def warning(check: str, where: str, what: str, fix: str) -> Finding:
    """A finding with which the model loads all the same."""
    return Finding(severity=Severity.WARNING, check=check, where=where, what=what, fix=fix)


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """On what a repository shall be served; what is None or empty is not compared."""

    release: TritonRelease | None = None
    gpus: tuple[GpuTarget, ...] = ()
    driver: str | None = None
    """Such as ``580.65.06``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """What the doctor saw."""

    findings: tuple[Finding, ...]
    """Those by which something fails to load come first."""
    unchecked: tuple[str, ...]
    """What could not be compared, and why: a line each."""
    models: int
    configs: int
    plans: int

    @property
    def loads(self) -> bool:
        """Whether nothing was found by which a model would fail to load."""
        return all(finding.severity is not Severity.FAILS for finding in self.findings)
