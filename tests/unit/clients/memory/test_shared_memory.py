"""The ring of shared-memory regions, its files and names; the server is a table of names that does what it is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from builder.nvml import NoGpuError, read_devices
from clients.contract import Contract
from clients.errors import DeadlineExceededError, ServerUnavailableError
from clients.memory.control import refusal
from clients.memory.cuda import cuda_regions
from clients.memory.regions import (
    SHARED_MEMORY,
    MemoryKind,
    SharedMemoryUnavailableError,
    SystemRegion,
    is_left_behind,
    new_name,
    unlink_left_behind,
)
from clients.memory.ring import SharedMemoryRing
from clients.wire.steps import Pause, Steps

ROOT = Path(__file__).resolve().parents[4]
T = TypeVar("T")

CONTRACT = Contract(model="m", version="", size_hw=(8, 16), names=("a",), max_batch_size=8, max_detections=3)


class Table:
    """What a server has registered."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.busy: set[str] = set()
        """Regions that requests have: they are not unregistered."""
        self.puts_off = False
        """As newer servers do: yes to a region that is busy, and unregistered later."""
        self.error: Exception | None = None
        self.asked = 0

    def register_system(self, name: str, key: str, byte_size: int, timeout_s: float) -> Steps[None]:
        self._ask(timeout_s)
        assert (SHARED_MEMORY / key.removeprefix("/")).stat().st_size == byte_size
        self.names.add(name)
        yield from ()

    def register_cuda(self, name: str, handle: bytes, device: int, byte_size: int, timeout_s: float) -> Steps[None]:
        raise AssertionError
        yield

    def unregister(self, kind: MemoryKind, name: str, timeout_s: float) -> Steps[None]:
        self._ask(timeout_s)
        if name not in self.busy:
            self.names.discard(name)
        elif not self.puts_off:
            raise refusal(f"Cannot unregister shared memory region '{name}', it is currently in use.")
        yield from ()

    def registered(self, kind: MemoryKind, timeout_s: float) -> Steps[frozenset[str]]:
        self._ask(timeout_s)
        yield from ()
        return frozenset(self.names)

    def _ask(self, timeout_s: float) -> None:
        assert timeout_s > 0
        self.asked += 1
        if self.error:
            raise self.error


def perform(steps: Steps[T]) -> T:
    try:
        while True:
            assert isinstance(next(steps), Pause)
    except StopIteration as stop:
        return stop.value


def ours() -> list[str]:
    """This process's files in /dev/shm: one of another container may have had its number."""
    return [path.name for path in SHARED_MEMORY.glob(f"{new_name().rpartition('_')[0]}_*")]


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def ring(table: Table) -> Any:
    ring = SharedMemoryRing(table, CONTRACT, perform, limit=3)
    perform(ring.open(1))
    yield ring
    table.busy.clear()
    ring.close(0.1)
    assert ours() == []


class TestRing:
    def test_region_is_registered_once_and_used_again(self, ring: SharedMemoryRing, table: Table) -> None:
        asked = table.asked
        for _ in range(5):
            slot = perform(ring.lend(1, 1))
            ring.give_back(slot)
        assert (len(table.names), table.asked) == (1, asked)

    def test_no_file_is_left_while_it_is_in_use(self, ring: SharedMemoryRing) -> None:
        perform(ring.lend(1, 1)).take(1)[...] = 7
        assert ours() == []

    def test_slots_do_not_overlap_and_keep_what_is_written(self, ring: SharedMemoryRing) -> None:
        slots = [perform(ring.lend(count, 1)) for count in (1, 2, 3)]
        for value, (slot, count) in enumerate(zip(slots, (1, 2, 3), strict=True), 1):
            assert slot.take(count).shape == (count, 8, 16, 3)
            slot.take(count)[...] = value
        for value, (slot, count) in enumerate(zip(slots, (1, 2, 3), strict=True), 1):
            assert (slot.take(count) == value).all()
            assert slot.rows_place(count).offset >= slot.images_place(count).byte_size
            rows_BN6 = slot.receive(count)
            assert rows_BN6.shape == (count, 3, 6)
            assert rows_BN6.dtype == np.float32
            assert not rows_BN6.any()

    def test_every_slot_lent_makes_the_next_wait_until_its_time_is_over(self, ring: SharedMemoryRing) -> None:
        slots = [perform(ring.lend(1, 1)) for _ in range(3)]
        with pytest.raises(DeadlineExceededError, match="none of 3 shared-memory regions"):
            perform(ring.lend(1, 0.02))
        ring.give_back(slots[1])
        assert perform(ring.lend(1, 1)) is slots[1]

    def test_small_free_slot_makes_way_for_a_larger_one(self, ring: SharedMemoryRing, table: Table) -> None:
        slots = [perform(ring.lend(1, 1)) for _ in range(3)]
        for slot in slots:
            ring.give_back(slot)
        assert perform(ring.lend(5, 1)).capacity == 8
        assert len(table.names) == 3

    @pytest.mark.parametrize("puts_off", [False, True])
    def test_dropped_slot_counts_until_the_server_has_let_it_go(
        self, ring: SharedMemoryRing, table: Table, puts_off: bool
    ) -> None:
        table.puts_off = puts_off
        slots = [perform(ring.lend(1, 1)) for _ in range(3)]
        dropped = slots[0].region.name
        table.busy.add(dropped)
        ring.drop(slots[0])
        with pytest.raises(DeadlineExceededError):
            perform(ring.lend(1, 0.02))
        assert dropped in table.names
        table.busy.clear()
        slot = perform(ring.lend(1, 1))
        assert dropped not in table.names
        assert slot.region.name in table.names
        assert slot not in slots

    def test_forgotten_region_is_shared_again_with_its_images(self, ring: SharedMemoryRing, table: Table) -> None:
        slot = perform(ring.lend(2, 1))
        slot.take(2)[...] = 5
        table.names.clear()
        perform(ring.renew(slot, 1))
        assert table.names == {slot.region.name}
        assert (slot.take(2) == 5).all()
        assert ours() == []

    def test_registration_that_failed_halfway_is_undone(self, ring: SharedMemoryRing, table: Table) -> None:
        table.error = ServerUnavailableError("gone")
        perform(ring.lend(1, 1))
        with pytest.raises(ServerUnavailableError):
            perform(ring.lend(1, 1))
        table.error = None
        assert ours() == []
        ring.close(1)
        assert table.names == set()

    def test_refusal_shares_nothing(self, table: Table) -> None:
        table.error = refusal("Client shared memory is disabled. Start the server with '--allow-client-shm=true'")
        ring = SharedMemoryRing(table, CONTRACT, perform)
        with pytest.raises(SharedMemoryUnavailableError, match=r"releases from 26\.04 on ask for"):
            perform(ring.open(1))
        table.error = None
        ring.close(1)
        assert (table.names, ours()) == (set(), [])

    def test_close_unregisters_all_and_refuses_what_follows(self, ring: SharedMemoryRing, table: Table) -> None:
        lent = [perform(ring.lend(1, 1)) for _ in range(2)]
        ring.give_back(lent[0])
        ring.close(1)
        ring.close(1)
        assert table.names == set()
        # Whoever still has one may go on with it.
        lent[1].take(1)[...] = 1
        ring.give_back(lent[1])
        with pytest.raises(ServerUnavailableError, match="close"):
            perform(ring.lend(1, 1))

    def test_close_says_what_the_server_still_uses(self, table: Table, caplog: pytest.LogCaptureFixture) -> None:
        ring = SharedMemoryRing(table, CONTRACT, perform)
        table.busy.add(perform(ring.lend(1, 1)).region.name)
        ring.close(0.02)
        assert [record.message for record in caplog.records] == [
            "1 shared-memory regions are still in use by the server"
        ]

    def test_full_dev_shm_makes_do_with_the_regions_there_are(self, table: Table) -> None:
        made = []

        def make(input_bytes: int, output_bytes: int) -> SystemRegion:
            if made:
                # No tmpfs has that much room.
                return SystemRegion(1 << 60, output_bytes)
            made.append(SystemRegion(input_bytes, output_bytes))
            return made[0]

        ring = SharedMemoryRing(table, CONTRACT, perform, make_region=make)
        slot = perform(ring.lend(1, 1))
        with pytest.raises(DeadlineExceededError):
            perform(ring.lend(1, 0.02))
        ring.give_back(slot)
        assert perform(ring.lend(1, 1)) is slot
        ring.close(1)
        assert ours() == []

    def test_no_room_at_all_is_one_line(self, table: Table) -> None:
        ring = SharedMemoryRing(table, CONTRACT, perform, make_region=lambda _, output: SystemRegion(1 << 60, output))
        with pytest.raises(SharedMemoryUnavailableError, match="--shm-size"):
            perform(ring.open(1))
        assert ours() == []


class TestLeftBehind:
    def test_own_regions_are_not(self) -> None:
        assert not is_left_behind(new_name())

    @pytest.mark.parametrize("name", ["", "other", "yolo_triton_client_1_2_3_x", "yolo_triton_benchmark_1_2"])
    def test_other_names_are_not(self, name: str) -> None:
        assert not is_left_behind(name)

    def test_those_of_another_container_are_not(self) -> None:
        parts = new_name().split("_")
        assert not is_left_behind("_".join([*parts[:3], "999999999", "1", "1", parts[-1]]))

    def test_those_of_a_process_that_ended_are_though_its_number_is_taken_again(self) -> None:
        parts = new_name().split("_")
        assert is_left_behind("_".join([*parts[:4], str(int(parts[4]) + 1), *parts[5:]]))

    def test_file_of_a_killed_client_is_unlinked(self) -> None:
        code = (
            "import os, signal; from clients.memory.regions import SHARED_MEMORY, SystemRegion;"
            "region = SystemRegion(10, 10); assert (SHARED_MEMORY / region.name).exists();"
            "print(region.name, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
        )
        killed = subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        name = killed.stdout.strip()
        assert is_left_behind(name)
        alive = SystemRegion(10, 10)
        unlink_left_behind()
        assert not (SHARED_MEMORY / name).exists()
        assert (SHARED_MEMORY / alive.name).exists()
        alive.close()
        assert ours() == []


class TestRefusal:
    @pytest.mark.parametrize(
        ("said", "hint"),
        [
            ("Client shared memory is disabled. Start the server with '--allow-client-shm=true' to enable.", "26.04"),
            ("Unable to open shared memory region: '/x'", "--ipc=host"),
            ("This protocol is restricted, expecting header 'triton-grpc-protocol-k'", "ConnectionOptions.headers"),
            ("out of\nluck", "out of luck"),
        ],
    )
    def test_what_the_server_says_comes_with_what_to_do(self, said: str, hint: str) -> None:
        text = str(refusal(said))
        assert hint in text
        assert "\n" not in text


def has_gpu() -> bool:
    try:
        return bool(read_devices())
    except NoGpuError:
        return False


@pytest.mark.skipif(has_gpu(), reason="says what a machine without a GPU says")
def test_cuda_memory_without_a_gpu_is_one_clear_line() -> None:
    with pytest.raises(SharedMemoryUnavailableError, match=r"^no CUDA shared memory: [^\n]+$"):
        cuda_regions()
