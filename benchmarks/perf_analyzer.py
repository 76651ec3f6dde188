"""NVIDIA's perf_analyzer, where there is one: the throughput of requests that are ready to be sent."""

from __future__ import annotations

import csv
import io
import subprocess
import tempfile
from pathlib import Path

from builder.errors import SpecError
from builder.server import TritonServer
from clients.contract import INPUT, Contract
from clients.errors import one_line

THROUGHPUT = "Inferences/Second"
WINDOWS = 3
"""Their mean counts, as it comes: on a shared machine, windows that agree within its 10 % may never come."""
ANY_DEVIATION_PERCENT = 999


class PerfAnalyzer:
    """The program, asking for one model over gRPC."""

    def __init__(self, executable: Path, contract: Contract) -> None:
        """Find out its version; raises SpecError where it does not run."""
        self._executable = executable
        self._contract = contract
        said = self._run("--version")
        self.name = one_line((said.stdout + said.stderr).replace("Perf Analyzer Version", "perf_analyzer"))

    def images_per_s(self, server: TritonServer, concurrency: int, window_s: float) -> float:
        """With so many requests of one image at a time; raises SpecError where it cannot measure."""
        height, width = self._contract.size_hw
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder, "report.csv")
            result = self._run(
                *("-m", self._contract.model, "-i", "grpc", "-u", server.grpc_url.removeprefix("grpc://")),
                *("-b", "1", "--shape", f"{INPUT}:{height},{width},3", "--input-data", "random"),
                *(f"--concurrency-range={concurrency}", "-p", str(round(window_s * 1e3)), "-r", str(WINDOWS)),
                *("-s", str(ANY_DEVIATION_PERCENT)),
                *("-f", str(report)),
            )
            text = report.read_text() if report.is_file() else ""
        rows = list(csv.DictReader(io.StringIO(text)))
        if not rows or THROUGHPUT not in rows[0]:
            raise SpecError(
                f"{self._executable} gave no {THROUGHPUT!r}: {one_line(result.stdout + result.stderr)[-300:]}"
            )
        return float(rows[0][THROUGHPUT])

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run([self._executable, *arguments], check=False, capture_output=True, text=True)
        except OSError as error:
            raise SpecError(
                f"--perf-analyzer {self._executable}: cannot be run ({error.strerror}); leave it out to measure with "
                "this project's own load"
            ) from error
