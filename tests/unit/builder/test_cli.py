"""Bad requests: each gets one clear line and its exit code, and the repository stays as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.cli import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def refusal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run ``build`` with flags that must be refused; gives the line, with the exit code in front."""
    repository = tmp_path / "repository"

    def run(*flags: str) -> str:
        arguments = ["build", "--repository", str(repository), "--cache", str(tmp_path / "cache"), *flags]
        code = main(arguments)
        captured = capsys.readouterr()
        assert code != 0
        assert not repository.exists(), "nothing is published, not even a folder"
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("error: ")
        return f"{code} {lines[0]}"

    return run


def test_an_unknown_gpu_lists_the_known_and_the_nearest(refusal) -> None:
    line = refusal("--gpu", "t5", "--weights", "examples/shapes/shapes.pt")
    assert line.startswith("2 ")
    assert "t4" in line
    assert "l40s" in line


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (None, "missing.pt", "examples/shapes/shapes.pt"),
        (b"", "empty.pt", "is empty"),
        (b"<!doctype html><title>Sign in</title>", "page.pt", "web page"),
        (b"PK\x03\x04truncated", "truncated.pt", "damaged"),
        (b"", "empty.onnx", "empty"),
        (b"\x00\x01garbage", "garbage.onnx", "ONNX"),
        (b"x", "model.engine", ".pt or .onnx"),
    ],
)
def test_weights_that_are_none(refusal, tmp_path: Path, content: bytes | None, name: str, expected: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert expected in refusal("--weights", str(path))


def test_imgsz_that_is_no_multiple_of_the_stride(refusal) -> None:
    line = refusal("--weights", str(ROOT / "examples/shapes/shapes.pt"), "--imgsz", "650")
    assert line.startswith("2 ")
    assert "multiple of the model's stride 32" in line
    assert "--imgsz 640" in line


def test_weights_whose_name_no_model_can_have(refusal, tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/shapes/shapes.pt", tmp_path / "my model.pt")
    line = refusal("--weights", str(tmp_path / "my model.pt"))
    assert "got 'my model'; give another with --name" in line
    line = refusal("--weights", str(tmp_path / "my model.pt"), "--name", "../evil")
    assert "got '../evil'; give another with --name" in line
    assert "got ''; give another with --name" in refusal("--weights", str(tmp_path / "my model.pt"), "--name", "")


def test_a_segmentation_model(refusal, tmp_path: Path) -> None:
    from ultralytics.nn.tasks import SegmentationModel

    from tests.networks import save_checkpoint

    path = save_checkpoint(SegmentationModel("yolo11n-seg.yaml", verbose=False), tmp_path / "seg.pt")
    assert "segmentation model" in refusal("--weights", str(path))


def test_images_that_cannot_be_read(refusal, tmp_path: Path) -> None:
    weights = ["--weights", str(ROOT / "examples/shapes/shapes.pt"), "--imgsz", "64"]
    assert "--images" in refusal(*weights, "--images", str(tmp_path / "none.jpg"))
    (tmp_path / "half.jpg").write_bytes((ROOT / "examples/shapes/unseen.jpg").read_bytes()[:5000])
    assert "half.jpg" in refusal(*weights, "--images", str(tmp_path / "half.jpg"))


def test_a_repository_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "file"
    target.write_text("mine")
    weights = str(ROOT / "examples/shapes/shapes.pt")
    assert main(["build", "--weights", weights, "--imgsz", "64", "--repository", str(target)]) == 1
    assert "error: " in capsys.readouterr().err
    assert target.read_text() == "mine"


def test_verify_of_nothing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--repository", str(tmp_path / "none")]) != 0
    captured = capsys.readouterr()
    assert len((captured.err + captured.out).strip().splitlines()) == 1


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from builder.cli import main\n"
        "try: main(['build', '--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'ultralytics', 'onnx', 'numpy', 'pydantic', 'cv2', 'openvino', 'tritonclient', 'google'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip().splitlines()[-1] == "[]"


def test_usage_errors_exit_2() -> None:
    for arguments in ([], ["nonsense"], ["build", "--nonsense"], ["serve", "--http-port", "x"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def hidden(folder: Path) -> list[str]:
    # Not rglob: it raises where a folder goes while it is read.
    return [name for _, folders, files in os.walk(folder) for name in (*folders, *files) if name.startswith(".")]


def test_sigterm_ends_a_build_with_143_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    repository, cache, weights = tmp_path / "repository", tmp_path / "cache", ROOT / "examples/shapes/shapes.pt"
    arguments = ["--weights", weights, "--imgsz", "64", "--repository", repository, "--cache", cache]
    command = [sys.executable, "-m", "builder", "build", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (cache.is_dir() and hidden(cache)):
            assert process.poll() is None, "it ended before a stage began"
            time.sleep(0.01)
        process.terminate()
        said = process.communicate()[1]
    assert process.returncode == 143
    assert said.splitlines()[-1] == "interrupted; nothing was published"
    assert "Traceback" not in said
    assert hidden(cache) == []
    assert not repository.exists()


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builder.verify.verify", interrupt)
    assert main(["verify"]) == 130
    assert capsys.readouterr().err == "interrupted; nothing was published\n"


def test_a_cache_that_is_a_file(refusal, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("mine")
    line = refusal("--weights", str(ROOT / "examples/shapes/shapes.pt"), "--imgsz", "64")
    assert f"the cache {tmp_path / 'cache'} cannot be written" in line
    assert "--cache" in line


def test_weights_that_cannot_be_downloaded_leave_no_folder(
    refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No proxy listens there, so that nothing is downloaded on a machine that could.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr("ultralytics.utils.downloads.is_online", lambda: False)
    monkeypatch.chdir(tmp_path)
    line = refusal("--weights", "yolo11n.pt")
    assert "could not be downloaded (Download failure for" in line
    assert "examples/shapes/shapes.pt" in line
    assert line.isascii()
    assert not (tmp_path / "user").exists()


def test_a_download_folder_that_cannot_be_written_is_one_line(
    refusal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.chdir(tmp_path)
    assert "set XDG_CACHE_HOME to another folder" in refusal("--weights", "yolo11n.pt")


def test_a_reader_that_has_enough_is_no_error_to_report(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from builder.cli import main\n"
        "sys.argv[1:] = ['verify', '--repository', sys.argv[1]]\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "model").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_make_clean_leaves_what_the_repository_has(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "builder").mkdir()
    for made in (".venv", "demo", ".pytest_cache", ".mypy_cache", ".ruff_cache", "yolo_triton.egg-info"):
        (tmp_path / made).mkdir()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "builder"]
