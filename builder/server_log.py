"""What tritonserver says while it runs: read at once, its end kept for an error, all of it written where asked."""

from __future__ import annotations

import collections
import contextlib
import threading
from pathlib import Path
from typing import IO

from builder.errors import ServerError

_LINES = 1000


class ServerLog:
    """The last lines of one server, and the file that takes them all."""

    def __init__(self, file: Path | None) -> None:
        """``file`` is made when the log is followed."""
        self._file = file
        self._lines: collections.deque[str] = collections.deque(maxlen=_LINES)
        self._reader: threading.Thread | None = None

    @property
    def lines(self) -> list[str]:
        """The last of them."""
        return list(self._lines)

    def open(self) -> IO[str] | None:
        """The file, empty; None where none is asked for. Raises ServerError where it cannot be written."""
        if self._file is None:
            return None
        try:
            return self._file.open("w", buffering=1)
        except OSError as error:
            raise ServerError(
                f"expected to write tritonserver's log to {self._file}, got: {error.strerror}; choose another file"
            ) from error

    def follow(self, output: IO[str], file: IO[str] | None) -> None:
        """Read a server's output to its end, in a thread; both are closed then."""
        self._reader = threading.Thread(target=self._read, args=(output, file), daemon=True)
        self._reader.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until every process that has the output open has ended; a model's may outlive the server."""
        if self._reader is not None:
            self._reader.join(timeout_s)

    def _read(self, output: IO[str], file: IO[str] | None) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(output)
            if file:
                stack.enter_context(file)
            for line in output:
                self._lines.append(line.rstrip())
                if file:
                    # A full disk costs the log, not the server, which would stand still if nobody read its output.
                    with contextlib.suppress(OSError):
                        file.write(line)
