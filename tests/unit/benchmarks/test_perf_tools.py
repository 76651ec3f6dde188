"""benchmarks.perf_tools: where perf_analyzer is looked for, and how it gets there."""

import os
import zipfile

import pytest

from benchmarks import perf_tools
from benchmarks.perf_tools import find_program, install, installed_in
from builder.errors import BuilderError, SpecError


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A machine without perf_analyzer."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin") + os.pathsep + "/usr/bin:/bin")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "venv"))


def write_program(path, script="echo Perf Analyzer Version 1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_without_one_the_error_says_what_to_run():
    with pytest.raises(SpecError, match="found none; run: make tools"):
        find_program()


def test_the_one_of_make_tools_runs_with_the_libraries_beside_it(tmp_path):
    path = write_program(installed_in(tmp_path / "venv" / "tools"))
    assert find_program().environment == {}
    (path.parent / "lib").mkdir()
    found = find_program()
    assert found.executable == path
    assert found.environment["LD_LIBRARY_PATH"].split(os.pathsep)[0] == str(path.parent / "lib")


def test_the_one_on_path_comes_first_and_the_one_that_is_given_before_it(tmp_path):
    write_program(installed_in(tmp_path / "venv" / "tools"))
    on_path = write_program(tmp_path / "bin" / "perf_analyzer")
    assert find_program().executable == on_path
    given = write_program(tmp_path / "given")
    assert find_program(given).executable == given


def test_one_that_is_given_and_not_there_is_refused_though_there_is_another(tmp_path):
    write_program(tmp_path / "bin" / "perf_analyzer")
    with pytest.raises(SpecError, match=r"--perf-analyzer .*absent: expected a program"):
        find_program(tmp_path / "absent")


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """What pip would download: a wheel whose program needs a library that the system has not."""

    def write(script, name="x.data/data/bin/perf_analyzer"):
        def download(requirement, folder):
            path = folder / "client.whl"
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(name, f"#!/bin/sh\n{script}\n")
            return path

        monkeypatch.setattr(perf_tools, "_download", download)

    return write


NEEDS_LIBRARY = """
folder=$(dirname "$0")
test -f "$folder/lib/libcudart.so.12" || {
    echo "perf_analyzer: error while loading shared libraries: libcudart.so.12: cannot open shared object file" >&2
    exit 127
}
echo Perf Analyzer Version 1
"""


def test_a_library_that_the_system_has_not_is_taken_from_another_wheel(tmp_path, monkeypatch, wheel):
    wheel(NEEDS_LIBRARY)
    library = tmp_path / "packages" / "nvidia_pytriton.libs" / "libcudart-0952.so.12.6.77"
    library.parent.mkdir(parents=True)
    library.write_text("library")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "packages"))
    assert install(tmp_path / "tools") == "Perf Analyzer Version 1"
    assert (tmp_path / "tools" / "perf_analyzer" / "lib" / "libcudart.so.12").read_text() == "library"
    # Again, over the first.
    assert install(tmp_path / "tools") == "Perf Analyzer Version 1"
    assert [path.name for path in (tmp_path / "tools").iterdir()] == ["perf_analyzer"]


@pytest.mark.parametrize(
    ("script", "name", "reason"),
    [
        (NEEDS_LIBRARY, "x.data/data/bin/perf_analyzer", "libcudart.so.12.*pip install nvidia-cuda-runtime-cu12"),
        ("echo Illegal instruction", "x.data/data/bin/perf_analyzer", "does not run here: Illegal instruction"),
        ("", "readme.txt", "client.whl holds no bin/perf_analyzer"),
    ],
)
def test_where_it_cannot_run_nothing_is_left(tmp_path, monkeypatch, wheel, script, name, reason):
    wheel(script, name)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "packages"))
    with pytest.raises(BuilderError, match=reason):
        install(tmp_path / "tools")
    assert list((tmp_path / "tools").iterdir()) == []


def test_without_a_network_it_says_what_is_missing_and_what_that_means(monkeypatch, capsys):
    # A port on which nothing listens, and no second try.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    assert perf_tools.main() == 1
    said = capsys.readouterr().err
    assert "cannot be downloaded" in said
    assert "the tests that need it are skipped" in said


def test_one_that_is_there_is_not_downloaded_again(tmp_path, capsys):
    path = write_program(tmp_path / "bin" / "perf_analyzer")
    assert perf_tools.main() == 0
    assert capsys.readouterr().out == f"perf_analyzer: Perf Analyzer Version 1, {path}\n"
