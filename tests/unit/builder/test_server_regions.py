"""Whose memory regions in /dev/shm are removed: this user's dead servers', and nobody else's.

Another run's server may start at any moment, and remove what no process names.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from builder.server_regions import SHARED_MEMORY, new_prefix, remove_left_behind, remove_regions
from tests.waiting import eventually

REGION = "01234567-89ab-cdef-0123-456789abcdef"


@pytest.fixture
def region():
    """Makes a region of a prefix, as the Python backend names it."""
    made = []

    def make(prefix):
        path = SHARED_MEMORY / f"{prefix}{REGION}"
        path.touch()
        made.append(path)
        return path

    yield make
    for path in made:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def process_of(prefix, argument="{prefix}"):
    """A process whose command line names the prefix."""
    named = argument.format(prefix=prefix)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", named])
    try:
        # For a moment a process that has just been started has no command line.
        assert eventually(lambda: named.encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes())
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("argument", ["{prefix}", "--backend-config=python,shm-region-prefix-name={prefix}"])
def test_regions_stay_while_a_process_names_their_server(region, argument):
    prefix = new_prefix()
    with process_of(prefix, argument):
        path = region(prefix)
        remove_left_behind()
        assert path.exists()
    remove_left_behind()
    assert not path.exists()


def test_of_two_servers_of_one_process_only_the_dead_ones_are_removed(region):
    dead, alive = new_prefix(), new_prefix()
    with process_of(alive):
        paths = region(dead), region(alive)
        remove_left_behind()
        assert [path.exists() for path in paths] == [False, True]


def other_container(prefix):
    owner, pid, _, token = prefix.removesuffix("_").rsplit("_", 3)
    return f"{owner}_{pid}_1_{token}_"


@pytest.mark.parametrize("change", [other_container, lambda prefix: prefix.replace("server", "benchmark")])
def test_what_may_be_anothers_stays(region, change):
    path = region(change(new_prefix()))
    remove_left_behind()
    assert path.exists()


def test_a_servers_own_are_removed_and_no_others(region):
    ended, other = new_prefix(), new_prefix()
    with process_of(other):
        paths = region(ended), region(other)
        remove_regions(ended)
        assert [path.exists() for path in paths] == [False, True]
