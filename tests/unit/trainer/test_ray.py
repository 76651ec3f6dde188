"""What a training on Ray refuses before Ray is started, and what its command and workers leave word of."""

from __future__ import annotations

import dataclasses
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder.errors import DataError, SpecError
from builder.signals import Interrupted
from trainer.cli import main
from trainer.distribution import Process
from trainer.errors import PeerLostError, TrainingError
from trainer.interruption import Interruption
from trainer.ray_desk import Desk
from trainer.ray_runtime import check_address, started_ray
from trainer.ray_training import _end, _marked, _told
from trainer.ray_workers import Request, check_seen, folder_of
from trainer.settings import TrainSettings


@pytest.mark.parametrize("address", ["", "cluster", ":6379", "host:", "host:port", "host:0", "ray://host:10001"])
def test_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SpecError, match="expected local"):
        check_address(address)


def test_address_that_nobody_listens_at_is_told(free_ports: Callable[[int], tuple[int, ...]]) -> None:
    with pytest.raises(TrainingError, match="no Ray answers there"):
        check_address(f"127.0.0.1:{free_ports(1)[0]}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"127.0.0.1:{server.getsockname()[1]}")


def test_ray_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SpecError, match=r"pip install 'yolo-triton\[ray\]'"), started_ray("local"):
        pass


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--ray", "local"), "--num-workers of 1 or more, got None"),
        (("--ray", "local", "--num-workers", "0"), "--num-workers of 1 or more, got 0"),
        (("--num-workers", "2"), "--num-workers goes with --ray"),
        (("--ray", "local", "--num-workers", "2", "--devices", "cpu,cpu"), "expected cpu, or 0 for a GPU per worker"),
        (("--ray", "nowhere", "--num-workers", "2"), "expected local"),
    ],
)
def test_wrong_request_is_one_line_before_anything_is_made(
    more: tuple[str, ...], expected: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "run"
    assert main(["train", "--run", str(run), "--data", str(dataset), "--model", "yolo11n.yaml", *more]) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1
    assert not run.parent.exists()


@pytest.fixture
def request_on(tmp_path: Path) -> Request:
    data = tmp_path / "data.yaml"
    data.touch()
    settings = TrainSettings(data=data, run=tmp_path / "run", model="yolo11n.yaml")
    return Request(
        settings=settings, folder=tmp_path, files=(("--data", data),), mark=tmp_path / ".mark", on_gpus=False,
        local=False, shows=False, desk=None,
    )  # fmt: skip


def test_worker_wants_to_see_what_the_command_sees(request_on: Request) -> None:
    process = Process(rank=1, world=2)
    with pytest.raises(SpecError, match=r"worker 1 \(node 3\) does not see the folder of --run .* add --store"):
        check_seen(request_on, 3, False, process)
    stored = dataclasses.replace(request_on.settings, stores=("s3://bucket/runs",))
    check_seen(dataclasses.replace(request_on, settings=stored), 3, False, process)
    request_on.mark.touch()
    check_seen(request_on, 3, False, process)
    request_on.settings.data.unlink()
    with pytest.raises(SpecError, match=r"worker 1 \(node 3\) does not see --data .* that all nodes share"):
        check_seen(request_on, 3, False, process)


def test_run_that_lies_on_the_node_of_worker_0_is_not_overwritten(request_on: Request) -> None:
    run = request_on.settings.run
    run.mkdir()
    (run / "settings.json").touch()
    there = dataclasses.replace(
        request_on, settings=dataclasses.replace(request_on.settings, stores=("s3://bucket/runs",))
    )
    with pytest.raises(SpecError, match="is not empty on node 1"):
        check_seen(there, 1, False, Process(rank=0, world=2))
    check_seen(there, 1, True, Process(rank=0, world=2))


def test_relative_paths_want_the_folder_of_the_request(request_on: Request) -> None:
    assert folder_of(request_on) == request_on.folder
    moved = dataclasses.replace(request_on, folder=Path("/nowhere"))
    assert folder_of(moved) == Path.cwd()
    with pytest.raises(SpecError, match="/nowhere, which the paths of the request are relative to"):
        folder_of(dataclasses.replace(moved, files=(("--data", Path("data.yaml")),)))


def test_mark_is_beside_the_run_and_goes(tmp_path: Path) -> None:
    with _marked(tmp_path / "runs" / "a") as mark:
        assert mark.parent == tmp_path / "runs"
        assert mark.exists()
    assert list(mark.parent.iterdir()) == []


def test_mark_of_a_killed_command_goes_with_the_next(tmp_path: Path) -> None:
    (tmp_path / f".a.{'0f' * 8}").touch()
    (tmp_path / ".a.lock").touch()
    with _marked(tmp_path / "a"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]


def test_worker_that_was_cut_after_a_signal_is_told_as_the_signal(tmp_path: Path) -> None:
    settings = TrainSettings(data=tmp_path / "data.yaml", run=tmp_path / "run", model="yolo11n.yaml")
    signals = Interruption(grace_s=60)
    fit: Any = SimpleNamespace(error=RuntimeError("worker 0 died"))
    desk: Any = Desk()
    with pytest.raises(TrainingError), signals:
        _end(fit, desk, signals, settings)
    with Interruption(grace_s=60) as signals:
        signals.begin()
        signals.ask(15)
        with pytest.raises(Interrupted, match="SIGTERM"):
            _end(fit, desk, signals, settings)


def test_desk_counts_beginnings_and_sends_nobody_to_work_after_the_end() -> None:
    desk = Desk()
    assert not desk.stop(0)
    assert [desk.begin(0, "a"), desk.begin(1, "a"), desk.begin(0, "b")] == [0, 0, 1]
    desk.say("a")
    desk.say("b")
    assert desk.take().lines == ("a", "b")
    assert desk.take().lines == ()
    assert desk.stop(15)
    assert desk.begin(0, "c") is None
    assert desk.outcome().number == 15

    # The first to begin would wait in the group for the second; where the group has died, nobody does.
    desk = Desk()
    assert desk.begin(0, "a") == 0
    assert desk.stop(15)
    assert [desk.begin(1, "a"), desk.begin(1, "b"), desk.begin(0, "b")] == [0, None, None]

    desk = Desk()
    desk.failed(1, SpecError("second"))
    desk.failed(0, DataError("first"))
    assert desk.begin(0, "a") is None
    assert str(desk.outcome().error) == "first"


def test_worker_that_died_is_named_rather_than_those_that_missed_it(tmp_path: Path) -> None:
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError

    settings = TrainSettings(data=tmp_path / "data.yaml", run=tmp_path / "run", model="yolo11n.yaml")
    died = WorkerGroupError("both", {0: PeerLostError("gone"), 1: ActorDiedError()})
    assert str(_told(died, settings)).startswith("worker 1 died (")
    assert "--max-restarts does so by itself" in str(_told(died, settings))
    missed = WorkerGroupError("one", {0: RuntimeError("[gloo] Connection closed by peer")})
    assert str(_told(missed, settings)).startswith("a worker of the training is gone")
