"""What is said of a store that fails."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from trainer.checkpoints.remote import NotThereError, Remote, reason


class NoCredentialsError(Exception):
    """As botocore's, by its name alone."""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/mnt/runs"), "/mnt/runs: No such file or"),
        (PermissionError(errno.EACCES, "Access Denied"), "Access Denied"),
        (FileNotFoundError("The specified bucket does not exist."), "The specified bucket does not exist"),
        (FileNotFoundError("/runs/a"), "/runs/a is not there"),
        (NoCredentialsError("Unable to locate credentials"), "no credentials were found; give them by the env"),
        (RuntimeError("broken\nand more"), "RuntimeError: broken"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_reason_is_a_line_in_plain_words(error: Exception, told: str) -> None:
    said = reason(error)
    assert said.startswith(told)
    assert "\n" not in said
    assert "Errno" not in said


def test_folder_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(NotThereError, match=r"absent: No such file or directory\.$"):
        Remote(f"file://{tmp_path / 'absent'}", "run").runs()
