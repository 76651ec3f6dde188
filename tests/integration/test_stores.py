"""Checkpoints away from the machine: moto's S3 behind a proxy that fails, and a folder as a store."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from builder.errors import SpecError
from tests.integration.failing_proxy import FailingProxy
from tests.unit.trainer.checkpoints.states import meta_of, state_of
from trainer.checkpoints.file import newest_valid, read_checkpoint, write_checkpoint
from trainer.checkpoints.remote import Remote
from trainer.checkpoints.restore import restore
from trainer.checkpoints.retention import Retention
from trainer.checkpoints.stores import FsspecStore, Retries
from trainer.checkpoints.writer import CheckpointWriter
from trainer.cli import main
from trainer.errors import CheckpointError, SealError, StoreError

BUCKET = "checkpoints"
KEY = bytes(range(32))
# As often as it takes, and without long waits: the test is of what arrives.
STUBBORN = Retries(first_s=0.02, longest_s=0.1, attempts=60)
ONCE = Retries(first_s=0.01, longest_s=0.01, attempts=1)


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    """The port of an empty S3 of moto's with one bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        port = server.get_host_and_port()[1]
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket=BUCKET)
        try:
            yield port
        finally:
            server.stop()


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """An address in that S3."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3_port}")
    return f"s3://{BUCKET}/runs"


@pytest.fixture
def told() -> list[str]:
    return []


def uploaded(
    address: str, folder: Path, run: str, steps: int = 3, *, key: bytes | None = None, last: int = 9
) -> list[Path]:
    """Checkpoints of a run, each of which has arrived; the first is the best."""
    paths = []
    for step in range(1, steps + 1):
        store = FsspecStore(Remote(address, run), keep=Retention(last=last), key=key, retries=ONCE)
        meta = meta_of(step, step, 1 / step, run)
        paths.append(write_checkpoint(folder, state_of(step), meta))
        store.submit(paths[-1], meta)
        assert store.close(60), store.failures
    return paths


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not come")


def test_100_mb_arrive_whole_by_a_store_that_fails_half_the_time(
    s3_port: int, s3: str, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = meta_of(1, 10, 0.5, "large")
    path = write_checkpoint(tmp_path / "here", state_of(1, values=25_000_000), meta)
    assert path.stat().st_size >= 100_000_000
    with FailingProxy(s3_port, share=0.5).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = FsspecStore(Remote(s3, "large"), keep=Retention(), retries=STUBBORN, say=told.append)
        store.submit(path, meta)
        assert store.close(600), store.failures
        restored = restore(Remote(s3, "large"), tmp_path / "there", key=None, say=told.append, retries=STUBBORN)
    assert restored
    assert restored.passed_over == ()
    assert restored.path.read_bytes() == path.read_bytes()
    assert proxy.failed
    assert sorted(each.name for each in restored.path.parent.iterdir()) == [f"{meta.name}.json", f"{meta.name}.pt"]


def test_training_goes_on_when_its_store_is_lost_and_its_newest_arrives_when_it_is_back(
    s3_port: int, s3: str, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FailingProxy(s3_port, share=1.0).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        # The package's own retries would hide from the store that it fails.
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        remote = Remote(s3, "lost")
        remote._fs.retries = 1
        writer = CheckpointWriter(tmp_path / "here", Retention(last=2))
        store = FsspecStore(remote, keep=Retention(last=2), retries=STUBBORN, say=told.append)
        writer.copy_to([store])
        for step in range(1, 6):
            writer.submit(state_of(step), meta_of(step, step, 1 / step, "lost"))
            wait_for((tmp_path / "here" / f"{meta_of(step, step).name}.json").exists)
        wait_for(lambda: len(store.failures) >= 3)
        assert newest_valid(tmp_path / "here").meta.step == 5  # type: ignore[union-attr]
        assert writer.failures == []
        proxy.share = 0.0
        assert writer.close(120), store.failures
        assert remote.checkpoints()[-1] == meta_of(5, 5).name
    assert told[0].endswith("It is tried again; the training goes on.")
    assert told[1] == f"{s3} has the newest checkpoint again"
    assert not [each.name for each in (tmp_path / "here").iterdir() if each.suffix == ".tmp"]


def test_store_keeps_by_rule_over_the_parts_of_a_run(s3: str, tmp_path: Path) -> None:
    uploaded(s3, tmp_path, "kept", steps=5, last=2)
    remote = Remote(s3, "kept")
    assert remote.checkpoints() == [meta_of(step, step).name for step in (1, 4, 5)]
    assert len(remote._names(f"{BUCKET}/runs/kept")) == 6


@pytest.mark.parametrize("store", ["s3", "file"])
def test_run_is_restored_by_its_name_on_a_fresh_machine(
    s3: str, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = s3 if store == "s3" else f"file://{tmp_path}/store"
    paths = uploaded(address, tmp_path / "here", "shapes")
    folder = tmp_path / "there" / "shapes"
    assert main(["restore", "--from", address, "--run", "shapes", "--to", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "e0003-s00000003.pt: 3 steps done, 3 whole epochs" in said
    assert "e0001-s00000001.pt: the best so far" in said
    assert f"go on: python -m trainer train --run {folder} --resume" in said
    found = newest_valid(folder / "checkpoints")
    assert found
    assert found.path.read_bytes() == paths[2].read_bytes()
    assert main(["restore", "--from", address, "--run", "shapes", "--to", str(folder)]) == 0
    assert "the store nothing newer" in capsys.readouterr().out


def test_what_does_not_verify_is_passed_over_and_told(tmp_path: Path, told: list[str]) -> None:
    address, there = f"file://{tmp_path}/store", tmp_path / "store" / "shapes"
    uploaded(address, tmp_path / "here", "shapes", steps=5)
    states = sorted(there.glob("*.pt"))
    states[4].write_bytes(states[4].read_bytes()[:-7])
    changed = bytearray(states[3].read_bytes())
    changed[500] ^= 4
    states[3].write_bytes(changed)
    states[2].unlink()
    # As an upload that was interrupted: the state is there, and its sidecar never came.
    (there / "e0009-s00000009-0123456789abcdef.pt").write_bytes(b"half")
    restored = restore(Remote(address, "shapes"), tmp_path / "there", key=None, say=told.append, retries=ONCE)
    assert restored
    assert restored.meta.step == 2
    assert [name for name, _ in restored.passed_over] == [meta_of(step, step).name for step in (5, 4, 3)]
    reasons = [reason for _, reason in restored.passed_over]
    assert "cut short" in reasons[0]
    assert "damaged" in reasons[1]
    assert "is not there" in reasons[2]
    for path in states[:2]:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds 5 checkpoint\(s\) of shapes and none that verifies"):
        restore(Remote(address, "shapes"), tmp_path / "nowhere", key=None, say=told.append, retries=ONCE)
    assert not list((tmp_path / "nowhere").iterdir())


def test_sealed_run_is_read_with_its_key_alone(
    s3: str, tmp_path: Path, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = uploaded(s3, tmp_path / "here", "sealed", steps=2, key=KEY)
    remote = Remote(s3, "sealed")
    for name in remote._names(f"{BUCKET}/runs/sealed"):
        content = remote.read(name)
        assert b"epoch" not in content
        assert not content.startswith(b"PK")
    restored = restore(remote, tmp_path / "there", key=KEY, say=told.append)
    assert restored
    assert restored.path.read_bytes() == paths[1].read_bytes()
    for key, words in ((None, "is sealed: give its key"), (bytes(32), "was sealed with another key")):
        with pytest.raises(SealError, match=words):
            restore(remote, tmp_path / "nowhere", key=key, say=told.append)
    wrong = tmp_path / "key"
    wrong.write_text("ab" * 32)
    command = ["restore", "--from", s3, "--run", "sealed", "--to", str(tmp_path / "n"), "--key-file", str(wrong)]
    assert main(command) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_wrong_address_run_or_bucket_is_told(s3: str, tmp_path: Path, told: list[str]) -> None:
    uploaded(s3, tmp_path / "here", "one", steps=1)
    with pytest.raises(SpecError, match=r"holds no checkpoint of 'two'; there are: .*one"):
        restore(Remote(s3, "two"), tmp_path / "there", key=None, say=told.append)
    with pytest.raises(StoreError, match="bucket does not exist"):
        restore(Remote("s3://no-such-bucket/runs", "one"), tmp_path / "there", key=None, say=told.append)
    with pytest.raises(StoreError, match="bucket does not exist"):
        Remote("s3://no-such-bucket/runs", "one").check()
    with pytest.raises(SpecError, match="expected an address such as"):
        Remote("nothing://bucket/runs", "one")
    with pytest.raises(SpecError, match="without a password"):
        Remote("s3://key:secret@bucket/runs", "one")
    for name in ("", "..", "a/b"):
        with pytest.raises(SpecError, match="expected a run's name"):
            Remote(s3, name)
    assert told == []


def test_store_with_another_run_of_the_name_is_refused_before_the_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.checkpoints.opening import bring_back, open_stores
    from trainer.settings import TrainSettings

    address = f"file://{tmp_path}/store"
    uploaded(address, tmp_path / "here", "shapes", steps=2)
    settings = TrainSettings(data=tmp_path, run=tmp_path / "there" / "shapes", stores=(address,))
    with pytest.raises(SpecError, match="holds checkpoints of a run 'shapes' already"):
        open_stores(settings, False, print)
    assert len(open_stores(settings, True, print)) == 1
    found = bring_back(settings, settings.run / "checkpoints", print)
    assert found
    assert found.meta.step == 2
    assert torch.equal(read_checkpoint(found.path)[0]["model"]["weight"], state_of(2)["model"]["weight"])
    assert "brought back from file://" in capsys.readouterr().out


def test_restore_reads_no_library_of_training(tmp_path: Path) -> None:
    code = (
        "import sys; from trainer.cli import main; "
        f"code = main(['restore', '--from', 'file://{tmp_path}', '--run', 'a', '--to', '{tmp_path}/a']); "
        "assert code == 2, code; print([m for m in ('torch', 'ultralytics') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env={**os.environ}
    )
    assert json.loads(ran.stdout) == []
