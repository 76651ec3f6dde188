from __future__ import annotations

import os
import shutil
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
from tests.unit.builder.conftest import Overtaken


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


def test_a_build_that_finds_a_damage_takes_nothing_away_that_another_has_put_in_its_place(
    tmp_path: Path, overtaken: Overtaken
) -> None:
    folder = StageCache(tmp_path).run("s", {}, Maker()).folder
    (folder / "out.bin").unlink()
    other = Maker()
    ended = overtaken(folder, lambda: StageCache(tmp_path).run("s", {}, other))
    StageCache(tmp_path).run("s", {}, Maker())
    # It found the same damage, and would have been told that its stage is in place as it is moved away.
    assert (other.runs, ended) == (1, [False])


def test_a_stage_that_is_forgotten_is_there_whole_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, there = StageCache(tmp_path), []
    stage = cache.run("s", {}, Maker())
    rmtree = shutil.rmtree

    def look_first(path: Path, **options: Any) -> None:
        there.append(stage.folder.exists())
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look_first)
    cache.forget(stage)
    assert there == [False]
    assert list((tmp_path / "s").iterdir()) == []
    cache.forget(stage)


def test_what_another_build_has_made_since_is_not_forgotten(tmp_path: Path) -> None:
    cache, make = StageCache(tmp_path), Maker()
    first = cache.run("s", {}, make)
    cache.forget(first)
    assert not cache.run("s", {}, make).reused
    cache.forget(first)
    assert cache.run("s", {}, make).reused


@pytest.mark.usefixtures("no_locks")
def test_a_cache_on_a_file_system_without_locks_is_used_all_the_same(tmp_path: Path) -> None:
    cache, make = StageCache(tmp_path), Maker()
    stage = cache.run("s", {}, make)
    (stage.folder / "out.bin").unlink()
    assert not cache.run("s", {}, make).reused
    again = cache.run("s", {}, make)
    assert again.reused
    cache.forget(again)
    assert not again.folder.exists()


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
