"""deploy/build_plan.sh, run whole: only pip's downloads, dpkg's database and Triton's image are stood in for."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
SCRIPT = PROJECT / "deploy" / "build_plan.sh"

# Stands for the image's Python: pip installs nothing, and what it was called with is kept.
PYTHON = r"""#!/bin/sh
case "$1" in
-c) test -n "${IMAGE_HAS:-}" && echo "$IMAGE_HAS" ;;
*)
    printf 'PYTHONPATH=%s\n' "${PYTHONPATH:-}" >>"$CALLS"
    for argument in "$@"; do printf '%s\n' "$argument"; done >>"$CALLS"
    if [ "$2" = pip ]; then exit "${PIP_EXIT:-0}"; fi
    ;;
esac
"""
DPKG_QUERY = "#!/bin/sh\necho\necho 10.16.1.11-1+cuda13.1\n"  # the first is a package that was removed

Run = Callable[..., subprocess.CompletedProcess[str]]


def executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """``run(*arguments, **environment)``: the script, in an image that knows nothing of TensorRT unless told."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    executable(binaries / "python3", PYTHON)

    def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", str(SCRIPT), *arguments],
            env={
                "PATH": f"{binaries}:{os.environ['PATH']}",
                "TMPDIR": str(tmp_path),
                "CALLS": str(tmp_path / "calls"),
                "TENSORRT_INCLUDE": f"{tmp_path}/include {tmp_path}/include/x86_64-linux-gnu",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return start


def calls(folder: Path) -> list[list[str]]:
    """Each call of Python: its PYTHONPATH, then its arguments."""
    text = (folder / "calls").read_text()
    return [call.splitlines() for call in text.split("PYTHONPATH=")[1:]]


def wanted(folder: Path) -> str:
    """The TensorRT that pip was asked for."""
    return calls(folder)[0][-1]


def header(*lines: str) -> str:
    return "".join(f"#define {line}\n" for line in ("NV_INFER_VERSION_H", *lines))


def test_the_images_tensorrt_is_installed_and_the_arguments_reach_the_builder(run: Run, tmp_path: Path) -> None:
    done = run("--repository", "/my models", "--model", "yolo11n", TRT_VERSION="10.13.3.9", CUDA_VERSION="13.0.1.012")
    assert done.returncode == 0, done.stderr
    pip, plan = calls(tmp_path)
    site = pip[pip.index("--target") + 1]
    assert pip[1:4] == ["-m", "pip", "install"]
    assert pip[-2].endswith("/project[plan]")
    assert pip[-1] == "tensorrt-cu13==10.13.3.9"
    assert plan == [site, "-m", "builder", "plan", "--repository", "/my models", "--model", "yolo11n"]


@pytest.mark.parametrize("version", ["8.6.1.6+cuda12.0.1.011", "8.6.1.6-1+cuda12.0", "8.6.1.6"])
def test_what_a_package_adds_to_the_version_is_left_out(run: Run, tmp_path: Path, version: str) -> None:
    assert run(TRT_VERSION=version).returncode == 0
    assert wanted(tmp_path) == "tensorrt==8.6.1.6"


def test_the_name_of_the_package_can_be_given(run: Run, tmp_path: Path) -> None:
    run(TRT_VERSION="10.13.3.9", CUDA_VERSION="13.0", TENSORRT_PACKAGE="tensorrt-cu12")
    assert wanted(tmp_path) == "tensorrt-cu12==10.13.3.9"


@pytest.mark.parametrize(
    "text",
    [
        header(
            *("TRT_MAJOR_ENTERPRISE 11", "TRT_MINOR_ENTERPRISE 3", "TRT_PATCH_ENTERPRISE 0", "TRT_BUILD_ENTERPRISE 99"),
            "NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE //!< TensorRT major version.",
            *(f"NV_TENSORRT_{part} TRT_{part}_ENTERPRISE" for part in ("MINOR", "PATCH", "BUILD")),
            "NV_TENSORRT_LWS_MAJOR 0",
        ),
        header(
            "NV_TENSORRT_MAJOR 11 //!< TensorRT major version.",
            "NV_TENSORRT_MINOR 3 //!< TensorRT minor version.",
            "NV_TENSORRT_PATCH 0 //!< TensorRT patch version.",
            "NV_TENSORRT_BUILD 99 //!< TensorRT build number.",
            "NV_TENSORRT_SONAME_MAJOR 11",
        ),
    ],
    ids=["through other names", "plain"],
)
@pytest.mark.parametrize("place", ["include", "include/x86_64-linux-gnu"])
def test_without_the_variable_the_version_is_read_from_the_header(
    run: Run, tmp_path: Path, text: str, place: str
) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "NvInferVersion.h").write_text(text)
    assert run().returncode == 0
    assert wanted(tmp_path) == "tensorrt==11.3.0.99"


def test_without_a_header_the_version_is_that_of_the_installed_library(run: Run, tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "dpkg-query", DPKG_QUERY)
    assert run().returncode == 0
    assert wanted(tmp_path) == "tensorrt==10.16.1.11"


@pytest.mark.parametrize("version", ["", "latest", "10.13", "10.13.3.9.post1", "10.13.3.9;touch x"])
def test_an_image_without_a_known_version_is_told_what_to_do(run: Run, tmp_path: Path, version: str) -> None:
    done = run(TRT_VERSION=version)
    assert done.returncode == 1
    assert (
        f"found '{version}'; run this inside nvcr.io/nvidia/tritonserver:YY.MM-py3, or set TRT_VERSION" in done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "calls").exists()


def test_a_header_that_lacks_a_number_is_no_version(run: Run, tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferVersion.h").write_text(header("NV_TENSORRT_MAJOR 11"))
    assert "found '11...'" in run().stderr


def test_a_tensorrt_that_the_image_has_already_is_not_installed_again(run: Run, tmp_path: Path) -> None:
    assert run(TRT_VERSION="11.3.0.99", IMAGE_HAS="11.3.0.99").returncode == 0
    assert wanted(tmp_path).endswith("/project[plan]")
    (tmp_path / "calls").unlink()
    assert run(TRT_VERSION="11.3.0.99", IMAGE_HAS="11.2.1.2").returncode == 0
    assert wanted(tmp_path) == "tensorrt==11.3.0.99"


def test_nothing_is_built_where_pip_fails(run: Run, tmp_path: Path) -> None:
    done = run(TRT_VERSION="10.7.0.23", PIP_EXIT="1")
    assert done.returncode == 1
    assert "could not install the project with tensorrt==10.7.0.23" in done.stderr
    assert "PIP_FIND_LINKS" in done.stderr
    assert len(calls(tmp_path)) == 1


def test_pip_gets_every_part_that_makes_plans(run: Run, tmp_path: Path) -> None:
    run(TRT_VERSION="10.13.3.9")
    copied = Path(calls(tmp_path)[0][-2].removesuffix("[plan]"))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    assert (copied / project["project"]["readme"]).is_file()
    for package in ("builder", "clients"):
        modules = [path.relative_to(PROJECT) for path in (PROJECT / package).rglob("*.py")]
        assert len(modules) > 20
        assert [module for module in modules if not (copied / module).is_file()] == []
    assert (copied / "builder" / "gpus.yaml").is_file()


def test_the_project_may_lie_in_a_read_only_folder_with_a_space(run: Run, tmp_path: Path) -> None:
    mounted = tmp_path / "a project"
    mounted.mkdir()
    for part in ("pyproject.toml", "README.md", "LICENSE", "builder", "clients", "deploy"):
        source = PROJECT / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, mounted / part)
    before = sorted(mounted.rglob("*"))
    command = ["sh", str(mounted / "deploy" / "build_plan.sh")]
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "TMPDIR": str(tmp_path),
        "TRT_VERSION": "10.13.3.9",
    }
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    assert sorted(mounted.rglob("*")) == before
