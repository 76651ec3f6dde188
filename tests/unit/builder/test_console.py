import io
import sys
from pathlib import Path

import pytest

from builder.cache import Stage
from builder.console import show_progress, stage_line


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("reused", "expected"), [(False, "export      1.2 s"), (True, "export      unchanged, reused")]
)
def test_a_stage_says_how_long_it_took_or_that_it_was_reused(reused, expected):
    stage = Stage(name="export", folder=Path(), result={}, seconds=1.234, reused=reused)
    assert stage_line(stage) == expected


def test_progress_overwrites_itself_and_ends_its_line(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    show_progress("images", 1, 2)
    show_progress("images", 2, 2)
    assert sys.stderr.getvalue() == "\rimages 1/2\rimages 2/2\n"


def test_a_log_file_gets_no_progress(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    show_progress("images", 1, 2)
    assert sys.stderr.getvalue() == ""
