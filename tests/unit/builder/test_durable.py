"""Locks and synced files, apart from what is published with them."""

import fcntl
from contextlib import ExitStack

import pytest

from builder.durable import locked, make_folders


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
    with locked(path, timeout_s=1):
        assert not is_free(path)


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
