"""Where NVIDIA's perf_analyzer is on this machine; ``python -m benchmarks.perf_tools`` gets one, for ``make tools``.

Its wheel wants glibc 2.38. On an older system the program inside the wheel of an older client runs, with two libraries
that other wheels hold; that client is not installed.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import BuilderError, SpecError

NAME = "perf_analyzer"
WHEEL = "perf-analyzer==2.60.0"
WHEEL_GLIBC = (2, 38)
OLDER_WHEEL = "tritonclient==2.47.0"
INSTALL = "run: make tools"
_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: (?P<name>\S+): cannot open")
_VERSION = "Perf Analyzer Version"
_DOWNLOAD_TIMEOUT_S = 600
_ANSWER_TIMEOUT_S = 30


class _InstallError(BuilderError):
    """Why there is no perf_analyzer now."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """One that the program of the older wheel is linked to."""

    places: tuple[str, ...]
    """Patterns in site-packages; wheels give the libraries that they bring names of their own."""
    how_to_get: str


LIBRARIES = {
    "libb64.so.0d": Library(places=("nvidia_pytriton.libs/libb64-*.so.0d",), how_to_get="apt install libb64-0d"),
    "libcudart.so.12": Library(
        places=("nvidia_pytriton.libs/libcudart-*.so.12*", "nvidia/cuda_runtime/lib/libcudart.so.12"),
        how_to_get="pip install nvidia-cuda-runtime-cu12",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A program and what it needs to run."""

    executable: Path
    environment: dict[str, str] = field(default_factory=dict)
    """Beyond its parent's environment."""


def find_program(given: Path | None = None) -> Program:
    """The one that is given, else that on PATH, that of ``make tools``, or that of the perf-analyzer wheel.

    Raises SpecError where there is none.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise SpecError(f"--perf-analyzer {given}: expected a program, found none that can be run; {INSTALL}")
        return _with_libraries(Path(found))
    on_path = shutil.which(NAME)
    # Not on PATH where Python is run by its path.
    for place in (Path(on_path) if on_path else None, installed_in(tools_folder()), _in_wheel()):
        if place is not None and os.access(place, os.X_OK):
            return _with_libraries(place)
    raise SpecError(f"expected NVIDIA's perf_analyzer on PATH or in {tools_folder()}, found none; {INSTALL}")


def tools_folder() -> Path:
    """Where ``make tools`` puts it: in the virtual environment, ``.venv/tools``."""
    return Path(sys.prefix, "tools")


def installed_in(tools: Path) -> Path:
    """Where the program is in there."""
    return tools / NAME / NAME


def _in_wheel() -> Path | None:
    package = importlib.util.find_spec(NAME)
    return Path(package.origin).parent / "bin" / NAME if package and package.origin else None


def _with_libraries(executable: Path) -> Program:
    libraries = executable.resolve().parent / "lib"
    if not libraries.is_dir():
        return Program(executable=executable)
    path = os.pathsep.join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")]))
    return Program(executable=executable, environment={"LD_LIBRARY_PATH": path})


def install(tools: Path) -> str:
    """Put a perf_analyzer that runs into the folder, whole or not at all; what it says of its version.

    Raises BuilderError where it cannot be downloaded or cannot run here.
    """
    requirement = WHEEL if glibc() >= WHEEL_GLIBC else OLDER_WHEEL
    tools.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools, prefix=f".{NAME}-") as temporary:
        fresh = Path(temporary, "fresh")
        (fresh / "lib").mkdir(parents=True)
        _unpack(_download(requirement, Path(temporary)), fresh / NAME)
        version = _version_with_libraries(fresh)
        if (tools / NAME).exists():
            (tools / NAME).rename(Path(temporary, "stale"))
        fresh.rename(tools / NAME)
    return version


def glibc() -> tuple[int, ...]:
    """The version of the system's C library; (0,) where it is another."""
    name, version = platform.libc_ver()
    return tuple(int(part) for part in version.split(".")) if name == "glibc" else (0,)


def _download(requirement: str, folder: Path) -> Path:
    arguments = ["--no-deps", "--only-binary=:all:", "--dest", str(folder), "--quiet", requirement]
    try:
        result = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_S,
        )
        said = result.stderr.strip().splitlines()
    except subprocess.TimeoutExpired:
        said = [f"no answer within {_DOWNLOAD_TIMEOUT_S} s"]
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise _InstallError(f"the wheel {requirement} cannot be downloaded: {said[-1] if said else 'pip gave none'}")
    return wheels[0]


def _unpack(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(f"bin/{NAME}")]
        if not names:
            raise _InstallError(f"{wheel.name} holds no bin/{NAME}")
        with archive.open(names[0]) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    target.chmod(0o755)


def _version_with_libraries(folder: Path) -> str:
    """What the program says of its version, once every library is beside it that the system has not."""
    program = _with_libraries(folder / NAME)
    for _ in range(len(LIBRARIES) + 1):
        said = _ask_version(program)
        missing = _MISSING_LIBRARY.search(said)
        if missing is None:
            if _VERSION in said:
                return said
            raise _InstallError(f"it does not run here: {said[-200:] or 'it says nothing'}")
        _add_library(missing["name"], folder / "lib")
    raise _InstallError(f"it does not run here: {said[-200:]}")


def _ask_version(program: Program) -> str:
    try:
        result = subprocess.run(
            [program.executable, "--version"],
            check=False,
            capture_output=True,
            text=True,
            timeout=_ANSWER_TIMEOUT_S,
            env={**os.environ, **program.environment},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _InstallError(f"it does not run here: {error}") from error
    return " ".join((result.stdout + result.stderr).split())


def _add_library(name: str, folder: Path) -> None:
    library = LIBRARIES.get(name)
    packages = Path(sysconfig.get_path("purelib"))
    found = [path for pattern in library.places for path in packages.glob(pattern)] if library else []
    if not found or (folder / name).exists():
        raise _InstallError(
            f"it needs {name}, which this system has not" + (f": {library.how_to_get}" if library else "")
        )
    shutil.copyfile(found[0], folder / name)


def main() -> int:
    """Install it where there is none; the exit code is 1 where that fails."""
    try:
        program = find_program()
        said = _ask_version(program)
        if _VERSION in said:
            print(f"{NAME}: {said}, {program.executable}")
            return 0
    except BuilderError:
        # There is none, or none that runs.
        pass
    try:
        version = install(tools_folder())
    except (BuilderError, OSError) as error:
        print(
            f"error: no {NAME}: {error}. Without it `python -m benchmarks load`, and what is built on it, cannot "
            "measure, and the tests that need it are skipped",
            file=sys.stderr,
        )
        return 1
    print(f"{NAME}: {version}, {installed_in(tools_folder())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
