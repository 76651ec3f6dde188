"""benchmarks.load.usage, on processes of this test's own."""

import subprocess
import sys

import pytest

from benchmarks.load.usage import ServerProcesses

WORK = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "sum(range(3 * 10**6)); print(flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(flush=True)
input()
child.communicate()
"""


@pytest.fixture
def session():
    """A process that leads its session, with a child in it that has worked."""
    with subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        process.stdout.readline()
        yield process
        if process.poll() is None:
            process.communicate(b"\n")


def test_all_processes_of_the_session_count(session):
    processes = ServerProcesses(session.pid)
    # The child's sum takes more than the hundredth of a second that the system counts in.
    assert processes.cpu_s() > 0
    # Two Pythons, of some 7 MB each beside what they share.
    assert 5 * 10**6 < processes.memory_bytes() < 10**8


def test_processes_that_have_ended_count_no_more(session):
    processes = ServerProcesses(session.pid)
    session.communicate(b"\n")
    assert (processes.cpu_s(), processes.memory_bytes()) == (0, 0)
