"""The releases of the Triton image: which TensorRT and CUDA each holds, and the driver and GPU that it needs."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import SpecError

DEFAULT_RELEASE = "26.09"
"""The newest of which all is known."""
JETSONS = ("8.7", "11.0")
"""Compute capabilities of Jetsons alone: NVIDIA gives them TensorRT with JetPack, and not every release of it."""
# As requires-python of pyproject.toml.
OLDEST_PYTHON, FIRST_PYTHON_TOO_NEW = (3, 11), (3, 13)
IMAGE = "nvcr.io/nvidia/tritonserver"

_NAME = re.compile(r"\d\d\.(0[1-9]|1[0-2])")
_VERSION = re.compile(r"\d+(\.\d+){0,3}")
# TensorRT's wheels call themselves 10.14.1.48.post1, its images 10.13.3.9+cuda13.0.
_SUFFIX = re.compile(r"(?:\.post\d+)?(?:[+-].*)?$")


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonRelease:
    """One release of ``nvcr.io/nvidia/tritonserver``; None where a version is not confirmed."""

    name: str
    """Year and month: ``26.09``."""
    server: str | None = None
    """The server's own version: ``2.73.0``."""
    tensorrt: str | None = None
    """As far as it is known: ``11.3``, ``10.13.3.9``."""
    cuda: str | None = None
    """Major and minor: ``13.4``."""
    minimal_driver: str | None = None
    """The least Linux driver for that CUDA major: ``580.65.06``."""
    gpu_floor: str | None = None
    """The least compute capability: ``7.5``."""
    gpu_ceiling: str | None = None
    """The highest compute capability that its TensorRT and CUDA know: ``12.0``."""
    gpu_gaps: tuple[str, ...] = ()
    """Compute capabilities between these two that it does not know all the same: ``11.0``."""
    python: str | None = None
    """Major and minor of the image's own Python: ``3.12``."""
    data_centre_drivers: tuple[str, ...] = ()
    """Older drivers that NVIDIA's notes allow on data-centre GPUs, the least of each branch: ``535.86``; empty where
    the notes name none or were not read."""

    def __post_init__(self) -> None:
        """Check what came from the table.

        Raises:
            ValueError: the name is no year and month, or a version is no string of numbers.
        """
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"expected a release such as '26.09', got {self.name!r}")
        for field_name in ("server", "tensorrt", "cuda", "minimal_driver", "gpu_floor", "gpu_ceiling", "python"):
            version = getattr(self, field_name)
            if version is not None and not _is_version(version):
                raise ValueError(f"{self.name}: expected {field_name} such as '10.13.3.9', got {version!r}")
        if not all(map(_is_version, self.gpu_gaps)):
            raise ValueError(f"{self.name}: expected gpu_gaps such as '11.0', got {self.gpu_gaps!r}")
        if not all(map(_is_version, self.data_centre_drivers)):
            raise ValueError(f"{self.name}: expected drivers such as '535.86', got {self.data_centre_drivers!r}")

    @property
    def image(self) -> str:
        """The image's name: ``nvcr.io/nvidia/tritonserver:26.09-py3``."""
        return f"{IMAGE}:{self.name}-py3"

    @property
    def known(self) -> bool:
        """Whether all that a deployment depends on is confirmed."""
        return None not in (self.server, self.tensorrt, self.cuda, self.minimal_driver, self.gpu_floor)

    def takes(self, compute_capability: str) -> bool | None:
        """Whether its TensorRT supports GPUs of that compute capability; None: that is not confirmed.

        A release knows what an older one knew, but for its own gaps. Of Jetsons that is not taken for granted.

        Raises:
            SpecError: ``compute_capability`` is no version.
        """
        wanted = parts(compute_capability)
        older = [each for each in releases().values() if each.name < self.name]
        newer = [each for each in releases().values() if each.name > self.name]
        if compute_capability in self.gpu_gaps:
            return False
        if self.gpu_floor is not None and wanted < parts(self.gpu_floor):
            return False
        # The floor only ever rose.
        next_floor = next((each.gpu_floor for each in newer if each.gpu_floor), None)
        if self.gpu_floor is None and (next_floor is None or wanted < parts(next_floor)):
            return None
        if self.gpu_ceiling is None and compute_capability in JETSONS:
            return None
        ceilings = [parts(each.gpu_ceiling) for each in (*older, self) if each.gpu_ceiling]
        if ceilings and wanted <= max(ceilings):
            return True
        return None if self.gpu_ceiling is None else False

    @property
    def builds_plans(self) -> bool | None:
        """Whether ``plan`` can run in the image: by its Python, which this project runs on or not; None: unknown."""
        if self.python is None:
            return None
        return OLDEST_PYTHON <= parts(self.python) < FIRST_PYTHON_TOO_NEW

    def runs_plan_of(self, tensorrt: str) -> bool | None:
        """Whether a plan of that TensorRT loads in this release, by what is known of both; None: nothing is known.

        A plan needs the very build that made it: TensorRT 8.6.1.2 refuses one of 8.6.1.6.
        """
        return None if self.tensorrt is None else same_version(self.tensorrt, tensorrt)


def parts(version: str) -> tuple[int, ...]:
    """A version's numbers: (580, 65, 6) of ``580.65.06``; of a wheel's or an image's own suffix nothing is kept.

    Raises:
        SpecError: it is no version.
    """
    numbers = _SUFFIX.sub("", version) if isinstance(version, str) else None
    if numbers is None or not _is_version(numbers):
        raise SpecError(f"expected a version such as 580.65.06, got {version!r}")
    return tuple(int(part) for part in numbers.split("."))


def same_version(one: str, other: str) -> bool:
    """Whether two versions agree in all the numbers that both have: 11.3 and 11.3.0.99 do."""
    return all(a == b for a, b in zip(parts(one), parts(other), strict=False))


@functools.cache
def releases() -> Mapping[str, TritonRelease]:
    """Every release of releases.yaml by name, oldest first.

    Raises:
        ValueError: the table holds what cannot be.
    """
    import yaml

    table = yaml.safe_load(Path(__file__).with_name("releases.yaml").read_text(encoding="utf-8"))
    return {name: _release(name, table["drivers"], **row) for name, row in sorted(table["releases"].items())}


def _release(
    name: str,
    drivers: Mapping[str, str],
    data_centre_drivers: Iterable[str] = (),
    gpu_gaps: Iterable[str] = (),
    **versions: Any,
) -> TritonRelease:
    major = str(versions.get("cuda")).partition(".")[0]
    return TritonRelease(
        name=name,
        minimal_driver=drivers.get(major),
        data_centre_drivers=tuple(data_centre_drivers),
        gpu_gaps=tuple(gpu_gaps),
        **versions,
    )


def find_release(name: str) -> TritonRelease:
    """The release of that name, also as a tag (``26.09-py3``) or as the whole image's name.

    Raises:
        SpecError: no such release is known.
    """
    wanted = name.strip().removeprefix(f"{IMAGE}:").removesuffix("-py3")
    release = releases().get(wanted)
    if release is None:
        raise SpecError(f"unknown Triton release {name!r}{_hint(wanted)}; expected one of: {', '.join(releases())}")
    return release


def release_of_server(version: str) -> TritonRelease:
    """The release whose tritonserver has that version, as the server itself tells it: ``2.51`` or ``2.51.0``.

    Raises:
        SpecError: none has, or several have.
    """
    found = [each for each in releases().values() if each.server is not None and same_version(each.server, version)]
    if len(parts(version)) < 2 or not found:
        known = list(releases().values())
        span = f"{known[0].server} ({known[0].name}) to {known[-1].server} ({known[-1].name})"
        raise SpecError(f"unknown tritonserver version {version!r}; known are {span}; name the release with --triton")
    if len(found) > 1:
        several = " and ".join(f"{each.name} ({each.server})" for each in found)
        raise SpecError(f"tritonserver {version} is in {several}; name the release with --triton")
    return found[0]


def _hint(wanted: str) -> str:
    """The nearest known release in time, where ``wanted`` is a year and month at all."""
    if not _NAME.fullmatch(wanted):
        return ""
    nearest = min(releases(), key=lambda name: abs(_month(name) - _month(wanted)))
    return f", nearest: {nearest}"


def _month(name: str) -> int:
    year, month = name.split(".")
    return int(year) * 12 + int(month)


def _is_version(version: object) -> bool:
    return isinstance(version, str) and _VERSION.fullmatch(version) is not None
