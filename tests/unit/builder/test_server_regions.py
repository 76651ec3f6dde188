"""Whose memory regions in /dev/shm are removed: this user's dead servers', and nobody else's."""

import subprocess
import sys

import pytest

from builder.server_regions import SHARED_MEMORY, new_prefix, remove_left_behind, remove_regions

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


@pytest.mark.parametrize("named", ["{prefix}", "--backend-config=python,shm-region-prefix-name={prefix}"])
def test_regions_stay_while_a_process_names_their_server(region, named):
    prefix = new_prefix()
    path = region(prefix)
    asleep = [sys.executable, "-c", "import time; time.sleep(600)", named.format(prefix=prefix)]
    process = subprocess.Popen(asleep)
    try:
        remove_left_behind()
        assert path.exists()
    finally:
        process.kill()
        process.wait()
    remove_left_behind()
    assert not path.exists()


def test_of_two_servers_of_one_process_only_the_dead_ones_are_removed(region):
    dead, alive = new_prefix(), new_prefix()
    paths = region(dead), region(alive)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", alive])
    try:
        remove_left_behind()
        assert [path.exists() for path in paths] == [False, True]
    finally:
        process.kill()
        process.wait()


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
    paths = region(ended), region(other)
    remove_regions(ended)
    assert [path.exists() for path in paths] == [False, True]
