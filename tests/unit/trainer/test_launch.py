"""What a signal leaves behind while torch's agent does not listen for it."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.api import _terminate_process_handler

from builder.signals import Interrupted
from trainer.launch import asked_by_its_end, launch


def launched(act: Callable[[], None], folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    def elastic_launch(config: Any, entrypoint: str) -> Callable[..., None]:
        return lambda *argv: act()

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", elastic_launch)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return launch(["train"], processes=2, max_restarts=0, grace_s=1)


@pytest.fixture(autouse=True)
def _handlers() -> Any:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    yield
    logging.disable(logging.NOTSET)  # a launch is its program's last act
    for each, handler in before.items():
        signal.signal(each, handler)


def test_signal_before_torch_listens_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        launched(lambda: signal.raise_signal(signal.SIGTERM), tmp_path, monkeypatch)
    assert list(tmp_path.iterdir()) == []


def test_torch_listens_no_more_when_its_processes_have_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def act() -> None:
        signal.signal(signal.SIGTERM, _terminate_process_handler)

    assert launched(act, tmp_path, monkeypatch) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_process_whose_launcher_is_gone_is_to_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_by_its_end() == 0
    monkeypatch.setenv("TRAINER_LAUNCHER", str(os.getppid()))
    assert asked_by_its_end() == 0
    monkeypatch.setenv("TRAINER_LAUNCHER", str(os.getpid()))
    assert asked_by_its_end() == signal.SIGTERM
