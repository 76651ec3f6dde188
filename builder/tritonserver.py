"""Where tritonserver is on this machine, how it is started from there, and what its log says when it fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from builder.cache import default_root
from builder.durable import locked_if_possible
from builder.errors import ServerError

WHEEL = "nvidia-pytriton"
_LOCK_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """A tritonserver that can be started."""

    executable: Path
    only_python_backend: bool
    """The wheel has neither TensorRT nor onnxruntime: what it can serve is a ``model.py``."""
    backends: Path | None = None
    """For ``--backend-directory``; None: the executable knows its own."""
    environment: dict[str, str] = field(default_factory=dict)
    """What the process needs beyond its parent's environment."""


def find_tritonserver() -> Installation:
    """The tritonserver on PATH, else the one inside the nvidia-pytriton wheel.

    Raises ServerError where there is neither, or where the wheel does not fit this Python.
    """
    on_path = shutil.which("tritonserver")
    if on_path:
        return Installation(executable=Path(on_path), only_python_backend=False)
    package = importlib.util.find_spec("pytriton")
    if package is None or package.origin is None:
        raise ServerError(
            "expected tritonserver on PATH or in the nvidia-pytriton wheel, found neither; on a GPU host run this "
            'inside the container nvcr.io/nvidia/tritonserver, elsewhere: pip install "yolo-triton[server]"'
        )
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return installation_in_wheel(Path(package.origin).parent / "tritonserver", python)


def installation_in_wheel(wheel: Path, python: str) -> Installation:
    """The wheel's tritonserver, made runnable for models that run in this version of Python ("3.11")."""
    version = importlib.metadata.version(WHEEL)
    stub = wheel / "python_backend_stubs" / python / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted(
            (path.parent.name for path in stub.parents[1].glob("*/triton_python_backend_stub")), key=_as_version
        )
        raise ServerError(
            f"{WHEEL} {version} serves Python {', '.join(known) or 'of no version'}, this is Python {python}; "
            "make the virtual environment with one of those, or put a tritonserver on PATH"
        )
    executable = wheel / "bin" / "tritonserver"
    files = {
        "backends/python/libtriton_python.so": wheel / "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py": wheel / "backends/python/triton_python_backend_utils.py",
        "backends/python/triton_python_backend_stub": stub,
    }
    # Installers differ in whether they keep a package file's run bit, and the environment may be read-only.
    if not os.access(executable, os.X_OK):
        files["bin/tritonserver"] = executable
    prepared = _prepared(default_root() / f"tritonserver-{version}-py{python}", files)
    if "bin/tritonserver" in files:
        executable = prepared / "bin" / "tritonserver"

    libraries = [str(wheel.parents[1] / "nvidia_pytriton.libs"), *_libpython_folder()]
    return Installation(
        executable=executable,
        only_python_backend=True,
        backends=prepared / "backends",
        environment={
            "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]),
            # The embedded Python takes its prefix, and so its packages, from the python3 that it finds first.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        },
    )


def _prepared(folder: Path, files: dict[str, Path]) -> Path:
    """The folder with a runnable copy of each file, made whole or not at all, and reused.

    Copies, not links: several virtual environments share the folder, and one of them may be deleted.
    """

    def complete() -> bool:
        return all(os.access(folder / name, os.X_OK) for name in files)

    if complete():
        return folder
    try:
        with locked_if_possible(folder.with_name(f".{folder.name}.lock"), _LOCK_TIMEOUT_S):
            # Another process may have been quicker, and its copy is as good as one made here.
            if not complete():
                _copy(files, folder)
        if not complete():
            raise PermissionError(errno.EACCES, "the copies may not be executed there")
    except OSError as error:
        raise ServerError(
            f"expected to write tritonserver's Python backend to {folder}, got: {error.strerror or error}; "
            "set XDG_CACHE_HOME to a writable folder on a file system that allows execution"
        ) from error
    return folder


def _copy(files: dict[str, Path], folder: Path) -> None:
    """Put a folder of these files in place, and what is there away."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        fresh = Path(temporary, "fresh")
        for name, source in files.items():
            target = fresh / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755)
        if folder.exists():
            folder.rename(Path(temporary, "stale"))
        # Without a lock another process may be first.
        with contextlib.suppress(OSError):
            fresh.rename(folder)


def _libpython_folder() -> list[str]:
    """Where the stub finds this Python's shared library; empty where the system's loader knows it."""
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    folder = sysconfig.get_config_var("LIBDIR")
    if folder and Path(folder, name).is_file():
        return [str(folder)]
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise ServerError(
            f"tritonserver's Python backend needs {name}, which is neither in {folder} nor known to the system; "
            f"install it (Debian: apt install {name.partition('.so')[0]}) or use a Python built with --enable-shared"
        ) from error
    return []


def _as_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


_STATUS_ROW = re.compile(r"^\| (?P<model>\S+) +\| (?P<version>\S+) +\| UNAVAILABLE: (?P<reason>.*?) *\|$")
_NOT_LOADED_ROW = re.compile(r"^\| (?P<model>\S+) +\| - +\| Not loaded: (?P<reason>.*?) *\|$")
_STATUS_CONTINUED = re.compile(r"^\|  +\|  +\| (?P<reason>.*?) *\|$")
_UNREADABLE_CONFIG = re.compile(r'Poll failed for model directory .*?: (?P<reason>.*?)"?$')
_PROTOBUF_ERROR = re.compile(r"^\[libprotobuf ERROR [^]]*\] (?P<reason>.*)$")
_PORT_TAKEN = re.compile(r"failed to start (?P<service>\w+) service: .*'(?P<address>\S+):(?P<port>\d+)' already in use")
_MISSING_VERSION = re.compile(r"(?P<reason>version \d+ is specified for model '(?P<model>[^']+)', but .*?)\"?$")
_TERMINATE = re.compile(r"^terminate called .*")
_WHAT = re.compile(r"^ +what\(\): +(?P<reason>.*)$")
_WHAT_WITHIN_LINES = 5
"""Several processes write the log, so lines of others may come between a crash's two."""
_LAST_ERROR = re.compile(r"^error: (?P<reason>.*)$")


def failure_reason(log: Iterable[str]) -> str:
    """Why tritonserver failed, in one line, from its log."""
    lines = list(log)
    if taken := _first(_PORT_TAKEN, lines):
        service = taken["service"].lower()
        return f"port {taken['port']} of {taken['address']} is in use; free it or choose another with --{service}-port"
    crash = crash_words(lines)
    if failed := _failed_models(lines):
        return "; ".join(failed) + (f" ({crash})" if crash else "")
    if unreadable := _first(_UNREADABLE_CONFIG, lines):
        where = _first(_PROTOBUF_ERROR, lines)
        return unreadable["reason"] + (f" ({where['reason']})" if where else "")
    if crash:
        return crash
    if last := _first(_LAST_ERROR, lines):
        return last["reason"]
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing to its log")


def crash_words(log: Iterable[str]) -> str:
    """What C++ said of the exception that ended a process, in one line; empty where none did."""
    lines = list(log)
    for number, line in enumerate(lines):
        if _TERMINATE.match(line):
            what = _first(_WHAT, lines[number + 1 : number + 1 + _WHAT_WITHIN_LINES])
            return f"{line.strip()}: {what['reason'].strip()}" if what else line.strip()
    return ""


def _failed_models(lines: list[str]) -> list[str]:
    """One line for each model that is not available, from the table that Triton prints of them."""
    failed: list[str] = []
    in_row = False
    for line in lines:
        if row := _STATUS_ROW.match(line):
            failed.append(f"model {row['model']} version {row['version']}: {row['reason']}")
            in_row = True
        elif row := _NOT_LOADED_ROW.match(line):
            missing = {found["model"]: found["reason"] for each in lines if (found := _MISSING_VERSION.search(each))}
            why = missing.get(row["model"])
            failed.append(f"model {row['model']}: {row['reason']}" + (f" ({why})" if why else ""))
            in_row = True
        elif in_row and (more := _STATUS_CONTINUED.match(line)) and more["reason"] != "At:":
            failed[-1] += f" {more['reason']}" if more["reason"] else ""
        else:
            in_row = False
    return failed


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> re.Match[str] | None:
    return next((match for line in lines if (match := pattern.search(line))), None)
