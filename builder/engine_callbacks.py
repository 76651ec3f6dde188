"""What TensorRT and TensorRT-RTX call back while they build: their log, and the steps that are done.

Both take the library's module as an argument: ``builder.engine`` is the one that imports it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

Progress = Callable[[str, int, int], None]
"""What is being done, steps done, steps in all."""

# TensorRT-RTX looks for a driver whenever it reports anything, and compiles without one.
_NO_DRIVER = re.compile(r"\[checkMacros\.cpp::catchCudaError[^\n]*\(cudaError (?:35|100): [^\n]*")


def without_driver_noise(text: str) -> str:
    """What the compiler says, less its complaint of the driver that it does not need."""
    return _NO_DRIVER.sub("", text).strip()


def compiler_log(trt: Any, log: Callable[[int, str], None], errors: list[str], *, without_gpu: bool) -> Any:
    """TensorRT's log in Python's levels; what it calls an error is kept in ``errors`` as well."""
    severity = trt.ILogger.Severity
    levels = {severity.VERBOSE: logging.DEBUG, severity.INFO: logging.INFO, severity.WARNING: logging.WARNING}

    class Log(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.ERROR)
            text = without_driver_noise(msg) if without_gpu else msg.strip()
            if level == logging.ERROR and text:
                errors.append(text)
            log(level if text else logging.DEBUG, text or msg)

    return Log()


def progress_monitor(trt: Any, progress: Progress) -> Any:
    """An IProgressMonitor; what ``progress`` raises, a Ctrl-C too, is kept in ``failure`` and ends the build."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.failure: BaseException | None = None
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            # The last step of a phase is not always told; a build that is being stopped finishes its phases, too.
            if steps and self.failure is None:
                self._tell(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1, self._steps.get(phase_name, step + 1))
            return self.failure is None

        def _tell(self, phase_name: str, done: int, total: int) -> None:
            try:
                progress(phase_name, min(done, total), total)
            except BaseException as e:  # an exception must not pass through the compiler
                self.failure = e

    return Monitor()
