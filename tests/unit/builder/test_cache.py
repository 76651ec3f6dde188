from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from builder.cache import StageCache, code_sha256
from builder.errors import BuilderError
from builder.int8_stages import QUANTIZATION_CODE
from builder.judging import ACCURACY_CODE
from builder.stages import IMAGE_CODE


class Maker:
    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.runs += 1
        (folder / "out.bin").write_bytes(b"content")
        return {"value": (1, 2), "runs": self.runs}


def test_a_stage_is_made_once_for_the_same_inputs(tmp_path: Path) -> None:
    cache, make = StageCache(tmp_path), Maker()
    first = cache.run("s", {"a": 1}, make)
    second = cache.run("s", {"a": 1}, make)
    assert (first.reused, second.reused, make.runs) == (False, True, 1)
    assert first.result == second.result == {"value": [1, 2], "runs": 1}
    assert (second.folder / "out.bin").read_bytes() == b"content"


def test_other_inputs_are_another_stage(tmp_path: Path) -> None:
    cache, make = StageCache(tmp_path), Maker()
    cache.run("s", {"a": 1}, make)
    assert not cache.run("s", {"a": 2}, make).reused
    assert not cache.run("t", {"a": 1}, make).reused


@pytest.mark.parametrize("damage", ["change", "delete", "record"])
def test_a_damaged_stage_is_made_again(tmp_path: Path, damage: str) -> None:
    cache, make = StageCache(tmp_path), Maker()
    folder = cache.run("s", {}, make).folder
    if damage == "change":
        (folder / "out.bin").write_bytes(b"other")
    elif damage == "delete":
        (folder / "out.bin").unlink()
    else:
        (folder / "stage.json").write_text("{")
    again = cache.run("s", {}, make)
    assert not again.reused
    assert (again.folder / "out.bin").read_bytes() == b"content"
    assert sorted(p.name for p in again.folder.iterdir()) == ["out.bin", "stage.json"]
    assert [p.name for p in (tmp_path / "s").iterdir()] == [again.folder.name]
    assert cache.run("s", {}, make).reused


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, Any]:
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        StageCache(tmp_path).run("s", {}, fail)
    assert list((tmp_path / "s").iterdir()) == []


def test_builds_of_the_same_inputs_at_once_agree(tmp_path: Path) -> None:
    cache, make = StageCache(tmp_path), Maker()
    with ThreadPoolExecutor(8) as pool:
        stages = list(pool.map(lambda _: cache.run("s", {}, make), range(16)))
    assert len({stage.folder for stage in stages}) == 1
    assert [p.name for p in (tmp_path / "s").iterdir()] == [stages[0].folder.name]


def test_a_cache_that_cannot_be_written_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BuilderError, match="--cache"):
        StageCache(tmp_path / "file").run("s", {}, Maker())


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    def be_killed(folder: Path) -> dict[str, Any]:
        (folder / "half").touch()
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    child = os.fork()
    if child == 0:
        StageCache(tmp_path).run("killed", {}, be_killed)
    os.waitpid(child, 0)
    assert len(list((tmp_path / "killed").iterdir())) == 1
    StageCache(tmp_path).run("s", {}, Maker())
    assert list((tmp_path / "killed").iterdir()) == []


def test_a_full_disk_while_a_stage_writes_is_told_as_the_caches(tmp_path: Path) -> None:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "first.onnx").touch()
        os.utime(folder / "first.onnx", (0, 0))
        (folder / "second.onnx").symlink_to("/dev/full")
        # As a library does that is handed a path: the error of a write names no file.
        with (folder / "second.onnx").open("w") as file:
            file.write("x")
        return {}

    with pytest.raises(
        BuilderError, match=rf"the cache {tmp_path} cannot be written: No space left .*second.onnx.* --cache"
    ):
        StageCache(tmp_path).run("s", {}, write)
    assert list((tmp_path / "s").iterdir()) == []


def test_another_file_that_cannot_be_read_is_not_told_as_the_caches(tmp_path: Path) -> None:
    def read(folder: Path) -> dict[str, Any]:
        return {"text": (tmp_path / "weights.pt").read_text()}

    with pytest.raises(BuilderError, match=r"read or write .*weights\.pt, got: No such file") as caught:
        StageCache(tmp_path / "cache").run("s", {}, read)
    assert "--cache" not in str(caught.value)


def test_stages_depend_on_the_code_that_makes_pictures_into_pixels() -> None:
    assert "../clients/letterbox" in IMAGE_CODE
    assert set(IMAGE_CODE) <= set(QUANTIZATION_CODE) & set(ACCURACY_CODE)
    assert code_sha256(IMAGE_CODE) != code_sha256(IMAGE_CODE[:1])
