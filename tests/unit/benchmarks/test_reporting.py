"""What the benchmarks' commands write, and what they say where they cannot."""

from __future__ import annotations

import argparse
import json
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.reporting import TARGET_MISSED, reported, write_file
from builder.errors import SpecError


@dataclass(frozen=True)
class Measured:
    """A report of one figure."""

    all_met: bool = True

    def to_json(self) -> dict[str, Any]:
        return {"ms": 1.5}

    def to_text(self) -> str:
        return "1.5 ms"


def asked_for(folder: Path, *, check: bool = False) -> argparse.Namespace:
    return argparse.Namespace(json=folder / "figures.json", html=folder / "page.html", check=check)


def never() -> Measured:
    raise AssertionError("measured")


def page(report: Measured) -> str:
    return f"<p>{report.to_text()}"


def test_figures_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(asked_for(tmp_path), Measured, page) == 0
    assert capsys.readouterr().out == "1.5 ms\n"
    assert json.loads((tmp_path / "figures.json").read_text()) == {"ms": 1.5}
    assert (tmp_path / "page.html").read_text() == "<p>1.5 ms"


@pytest.mark.parametrize(("check", "code"), [(True, TARGET_MISSED), (False, 0)])
def test_a_missed_target_is_an_exit_code_where_it_is_checked(tmp_path: Path, check: bool, code: int) -> None:
    assert reported(asked_for(tmp_path, check=check), lambda: Measured(all_met=False), page) == code


@pytest.mark.parametrize("absent", ["json", "html"])
def test_a_folder_that_is_not_there_is_told_before_anything_is_measured(tmp_path: Path, absent: str) -> None:
    arguments = asked_for(tmp_path)
    setattr(arguments, absent, tmp_path / "none" / "file")
    with pytest.raises(SpecError, match=rf"--{absent} .*none/file: expected the folder .*none, found none"):
        reported(arguments, never, page)


def test_figures_are_printed_where_the_page_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = asked_for(tmp_path)
    arguments.html.mkdir()
    with pytest.raises(
        SpecError, match=r"--html .*page\.html: cannot be written: Is a directory; the figures are above"
    ):
        reported(arguments, Measured, page)
    assert capsys.readouterr().out == "1.5 ms\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "page.html"]


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    link, file = tmp_path / "latest.json", tmp_path / "figures.json"
    link.symlink_to(file)
    write_file("--json", link, "{}")
    assert link.is_symlink()
    assert file.read_text() == "{}"


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_file("--json", pipe, "{}")
        assert os.read(reader, 10) == b"{}"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_a_name_too_long_for_another_beside_it_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250 + ".json")
    write_file("--json", path, "{}")
    assert path.read_text() == "{}"


def test_what_was_there_stays_where_the_disk_is_full(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("before")
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A file of more bytes than this cannot be written, as on a disk without room for it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, former[1]))
    try:
        with pytest.raises(SpecError, match="cannot be written: File too large"):
            write_file("--html", path, "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert path.read_text() == "before"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
