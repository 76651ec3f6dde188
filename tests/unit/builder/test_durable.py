"""Locks and synced files, apart from what is published with them."""

import errno
import fcntl
import os
import secrets
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from builder.durable import copy_file, locked, make_folders, replace_file, scratch_folder, sweep, write_file


def is_free(path):
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_lock_is_held_until_the_end_and_its_file_is_gone_then(tmp_path):
    path = tmp_path / "lock"
    with locked(path, timeout_s=1):
        assert not is_free(path)
    assert not path.exists()


def test_a_lock_file_that_its_former_holder_removes_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    flock = fcntl.flock
    releases = iter([True])

    def former_holder_lets_go_first(descriptor, operation):
        if next(releases, False):
            path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", former_holder_lets_go_first)
    with locked(path, timeout_s=0):
        assert not is_free(path)


@pytest.fixture
def taken_away_before(monkeypatch):
    """``taken_away_before(os, "open", folder)``: at the next call the folder is removed first, as by another's undo."""

    def prepare(module, name, folder):
        function, moments = getattr(module, name), iter([True])

        def remove_first(*arguments, **options):
            if next(moments, False):
                folder.rmdir()
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, remove_first)
        return moments

    return prepare


def test_a_lock_whose_folder_is_taken_away_meanwhile_has_it_made_again(tmp_path, taken_away_before):
    (tmp_path / "theirs").mkdir()
    moments = taken_away_before(os, "open", tmp_path / "theirs")
    with locked(tmp_path / "theirs" / "lock", timeout_s=0):
        assert not is_free(tmp_path / "theirs" / "lock")
    assert next(moments, None) is None
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_was_made_for_a_lock_stays_where_it_was_used(tmp_path):
    with locked(tmp_path / "new" / "lock", timeout_s=0):
        (tmp_path / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_folders_below_one_that_is_taken_away_meanwhile_are_made_again(tmp_path, taken_away_before):
    (tmp_path / "theirs").mkdir()
    moments = taken_away_before(os, "mkdir", tmp_path / "theirs")
    with ExitStack() as undo:
        make_folders(tmp_path / "theirs" / "ours", undo)
        assert (tmp_path / "theirs" / "ours").is_dir()
    assert next(moments, None) is None


def test_a_scratch_folder_below_one_that_is_taken_away_meanwhile_is_made_again(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    choose, moments = secrets.choice, iter([True])

    def choose_a_name_as_it_is_taken_away(letters):
        if next(moments, False):
            (tmp_path / "theirs").rmdir()
        return choose(letters)

    monkeypatch.setattr(secrets, "choice", choose_a_name_as_it_is_taken_away)
    with scratch_folder(tmp_path / "theirs", "half-") as folder:
        assert folder.is_dir()
    assert next(moments, None) is None


@pytest.mark.parametrize(("module", "name"), [(os, "mkdir"), (os, "open"), (fcntl, "flock")])
def test_a_ctrl_c_as_a_scratch_folder_is_made_leaves_none(tmp_path, monkeypatch, module, name):
    function, moments = getattr(module, name), iter([True])

    def be_interrupted_after(*arguments, **options):
        result = function(*arguments, **options)
        for _ in moments:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, name, be_interrupted_after)
    with pytest.raises(KeyboardInterrupt), scratch_folder(tmp_path, "half-"):
        pytest.fail("made")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_at_all_is_told(tmp_path):
    # The kernel says of a new folder there that something is missing.
    nowhere = Path("/proc/nowhere")
    with pytest.raises(FileNotFoundError), locked(nowhere / "lock", timeout_s=0):
        pytest.fail("locked")
    with pytest.raises(FileNotFoundError), scratch_folder(nowhere, "half-"):
        pytest.fail("made")


def test_a_lock_ends_with_the_process_that_took_it_and_not_with_its_children(tmp_path):
    path, code = (
        tmp_path / "lock",
        """
import os, signal, sys, time
from pathlib import Path
from builder.durable import locked, scratch_folder
with locked(Path(sys.argv[1]), timeout_s=0), scratch_folder(Path(sys.argv[2]), "scratch-"):
    child = os.fork()
    if not child:
        os.close(1)
        time.sleep(600)
    print(child, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "scratch"], stdout=subprocess.PIPE, text=True, check=False
    )
    child = int(killed.stdout)
    try:
        with locked(path, timeout_s=0):
            os.kill(child, 0)
        sweep(tmp_path / "scratch", "scratch-")
        assert list((tmp_path / "scratch").iterdir()) == []
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_that_stays_taken_is_given_up(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError), locked(path, timeout_s=0.05):
            pytest.fail("two holders")
    assert path.exists()


def test_a_link_in_the_locks_place_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"), locked(tmp_path / "lock", timeout_s=1):
        pytest.fail("locked")
    assert not (tmp_path / "precious").exists()


def test_new_folders_are_undone_and_used_ones_stay(tmp_path):
    (tmp_path / "old").mkdir()
    with ExitStack() as undo:
        make_folders(tmp_path / "old" / "new" / "deeper", undo)
        assert (tmp_path / "old" / "new" / "deeper").is_dir()
    assert list((tmp_path / "old").iterdir()) == []
    with ExitStack() as undo:
        make_folders(tmp_path / "old" / "new" / "deeper", undo)
        (tmp_path / "old" / "new" / "file").touch()
    assert [path.name for path in (tmp_path / "old" / "new").iterdir()] == ["file"]


def test_the_file_that_a_full_disk_cannot_take_is_named(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    full = Path("/dev/full")  # every write to it fails as one to a full disk does
    for write in (lambda: copy_file(tmp_path / "source", full), lambda: write_file(full, b"content")):
        with pytest.raises(OSError, match="No space left") as caught:
            write()
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "new" / "target"
    replace_file(target, b"first")
    replace_file(target, b"second")
    assert target.read_bytes() == b"second"

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        replace_file(target, b"third")
    assert target.read_bytes() == b"second"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_the_file_that_cannot_be_read_is_named(tmp_path):
    unreadable = Path("/proc/self/mem")  # nothing is mapped at address 0
    with pytest.raises(OSError, match="Input/output error") as caught:
        copy_file(unreadable, tmp_path / "target")
    assert caught.value.filename == str(unreadable)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_a_copy_is_whole(tmp_path, size):
    (tmp_path / "source").write_bytes(os.urandom(size))
    copy_file(tmp_path / "source", tmp_path / "new" / "target")
    assert (tmp_path / "new" / "target").read_bytes() == (tmp_path / "source").read_bytes()


def test_a_scratch_folder_of_a_living_process_stays_and_that_of_a_killed_one_is_swept(tmp_path):
    ready, say_ready = os.pipe()
    child = os.fork()
    if child == 0:
        with scratch_folder(tmp_path, "half-") as folder:
            (folder / "file").touch()
            os.write(say_ready, b"!")
            signal.pause()
    os.read(ready, 1)
    sweep(tmp_path, "half-")
    (folder,) = tmp_path.iterdir()
    assert (folder / "file").exists()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    sweep(tmp_path, "half-")
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_scratch_folders_is_swept(tmp_path):
    for name in ("half-", "half-finished-work", "other-0123abcd"):
        (tmp_path / name).mkdir()
    (tmp_path / "half-0123abcd").write_text("a file")
    (tmp_path / "elsewhere" / "precious").mkdir(parents=True)
    (tmp_path / "half-89abcdef").symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    sweep(tmp_path, "half-")
    assert sorted(tmp_path.rglob("*")) == before
    sweep(tmp_path / "nowhere", "half-")


def test_sweeping_at_any_moment_takes_no_folder_from_its_owner(tmp_path):
    def use(number):
        if number % 2:
            sweep(tmp_path, "half-")
        else:
            with scratch_folder(tmp_path, "half-") as folder:
                (folder / "file").write_text("mine")
                return (folder / "file").read_text() == "mine"
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(400)))
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_that_was_renamed_stays(tmp_path):
    with scratch_folder(tmp_path, "half-") as folder:
        (folder / "file").touch()
        folder.rename(tmp_path / "whole")
    assert [path.name for path in tmp_path.rglob("*")] == ["whole", "file"]
