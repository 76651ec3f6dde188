"""Publishing into a model repository: whole or not at all, whatever happens meanwhile."""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import traceback
from hashlib import sha256
from pathlib import Path

import pytest

import builder.repository
from builder.artifacts import ConfigFile
from builder.errors import RepositoryError, SpecError
from builder.repository import check_model_name, publish, publish_content
from builder.verify import verify

FILES = {"model.onnx": b"weights one", "model.py": b"# serves", "labels.txt": b"circle\nsquare\n"}
OTHER_FILES = {**FILES, "model.onnx": b"weights two", "warmup/frame": b"\0" * 64}
BUILD = {"weights_sha256": "ab" * 32, "spec": {"imgsz": 640}}


def configs(*gpus, name="shapes"):
    """A stage of configurations as small as Triton's format allows."""

    def for_version(version):
        text = f'name: "{name}"\nversion_policy {{ specific {{ versions: [{version}] }} }}\nmax_batch_size: 8\n'
        paths = [f"configs/{each}.pbtxt" for each in ("cpu", *(gpus or ("t4",)))]
        return tuple(ConfigFile(relative_path=path, text=f"{text}# {path}\n") for path in [*paths, "config.pbtxt"])

    return for_version


def put(repository, files=None, name="shapes", gpus=(), build=None):
    build = BUILD if build is None else build
    return publish(repository, name, files=files or FILES, configs=configs(*gpus, name=name), build=build)


def tree(folder):
    """Every file and folder below, with the files' content."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def findings(repository, name=None):
    return [str(finding) for report in verify(repository, name) for finding in report.findings]


def selected(repository, name="shapes"):
    (report,) = verify(repository, name)
    return report.version


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "outer" / "repository"


class TestPublish:
    def test_first_version_has_every_file_its_configs_and_their_copies(self, repository):
        source = repository.parent.parent / "export.onnx"
        source.write_bytes(b"weights one")
        published = put(repository, {**FILES, "model.onnx": source})
        assert (published.version, published.changed, published.older_configs) == (1, True, ())
        assert published.path == repository / "shapes" / "1"
        assert sorted(tree(repository)) == sorted(
            [
                *("shapes", "shapes/config.pbtxt", "shapes/configs", "shapes/configs/cpu.pbtxt"),
                *("shapes/configs/t4.pbtxt", "shapes/1", "shapes/1/model.onnx", "shapes/1/model.py"),
                *("shapes/1/labels.txt", "shapes/1/manifest.json", "shapes/1/configs"),
                *("shapes/1/configs/config.pbtxt", "shapes/1/configs/cpu.pbtxt", "shapes/1/configs/t4.pbtxt"),
            ]
        )
        assert (published.path / "model.onnx").read_bytes() == b"weights one"
        assert findings(repository) == []
        assert list(repository.parent.iterdir()) == [repository]

    def test_published_files_can_be_read_by_another_user(self, repository):
        umask = os.umask(0o022)
        try:
            published = put(repository)
        finally:
            os.umask(umask)
        assert stat.S_IMODE(published.path.stat().st_mode) == 0o755
        assert stat.S_IMODE((published.path / "model.onnx").stat().st_mode) == 0o644

    def test_manifest_names_the_build_and_every_file(self, repository):
        published = put(repository)
        manifest = json.loads((published.path / "manifest.json").read_text())
        assert {key: manifest[key] for key in ("schema_version", "name", "version", "build")} == {
            "schema_version": 1,
            "name": "shapes",
            "version": 1,
            "build": BUILD,
        }
        assert manifest["files"]["model.onnx"] == {
            "bytes": 11,
            "sha256": sha256(b"weights one").hexdigest(),
        }
        assert set(manifest["files"]) == {*FILES, "configs/config.pbtxt", "configs/cpu.pbtxt", "configs/t4.pbtxt"}

    def test_same_build_gives_the_same_bytes_anywhere(self, tmp_path):
        put(tmp_path / "one", build={"b": 1, "a": 2})
        put(tmp_path / "two" / "deeper", dict(reversed(FILES.items())), build={"a": 2, "b": 1})
        assert tree(tmp_path / "one") == tree(tmp_path / "two" / "deeper")

    def test_same_build_again_writes_nothing(self, repository):
        put(repository)
        before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in repository.rglob("*")}
        again = put(repository)
        assert (again.version, again.changed) == (1, False)
        assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in repository.rglob("*")} == before

    @pytest.mark.parametrize(
        "change",
        [{"files": OTHER_FILES}, {"build": {"spec": {"imgsz": 320}}}, {"gpus": ("l4",)}],
        ids=["files", "build", "configs"],
    )
    def test_another_build_becomes_the_next_version_beside_the_last(self, repository, change):
        put(repository)
        before = tree(repository / "shapes" / "1")
        published = put(repository, **change)
        assert (published.version, published.changed) == (2, True)
        assert tree(repository / "shapes" / "1") == before
        assert selected(repository) == 2
        assert findings(repository) == []

    def test_a_build_that_is_there_already_is_put_in_use_again(self, repository):
        put(repository)
        put(repository, OTHER_FILES)
        published = put(repository)
        assert (published.version, published.changed) == (1, True)
        assert selected(repository) == 1
        assert findings(repository) == []
        assert put(repository).changed is False

    def test_another_gpus_config_keeps_its_version_and_is_named(self, repository):
        put(repository, gpus=("t4",))
        published = put(repository, OTHER_FILES, gpus=("l4",))
        assert published.older_configs == ("configs/t4.pbtxt",)
        assert "versions: [1]" in (repository / "shapes" / "configs" / "t4.pbtxt").read_text()
        assert findings(repository) == []

    def test_a_damaged_version_is_not_taken_for_the_same_build(self, repository):
        put(repository)
        (repository / "shapes" / "1" / "model.onnx").write_bytes(b"weights 0ne")
        assert put(repository).version == 2
        assert findings(repository) == [
            f"shapes 1: model.onnx: expected sha256 {sha256(b'weights one').hexdigest()[:12]}..., "
            f"found {sha256(b'weights 0ne').hexdigest()[:12]}..."
        ]

    def test_models_share_a_repository(self, repository):
        put(repository, name="shapes")
        put(repository, name="shapes.v2")
        assert [(report.model, report.findings) for report in verify(repository)] == [("shapes", ()), ("shapes.v2", ())]

    def test_everything_is_on_the_disk_before_something_names_it(self, repository, monkeypatch):
        put(repository)
        model, synced, events = repository / "shapes", set(), []
        fsync, rename, replace = os.fsync, os.rename, os.replace

        def note_sync(descriptor):
            synced.add(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
            fsync(descriptor)

        def note_rename(source, target):
            below = {str(path) for path in source.rglob("*")} | {str(source)} if source.is_dir() else {str(source)}
            events.append((str(target.relative_to(model)), below <= synced, str(model) in synced))
            synced.discard(str(model))
            rename(source, target)

        def note_replace(source, target):
            below = {str(source)}
            events.append((str(target.relative_to(model)), below <= synced, str(model) in synced))
            replace(source, target)

        monkeypatch.setattr(os, "fsync", note_sync)
        monkeypatch.setattr(os, "rename", note_rename)
        monkeypatch.setattr(os, "replace", note_replace)
        put(repository, OTHER_FILES)
        assert events == [
            ("2", True, False),
            ("configs/cpu.pbtxt", True, True),
            ("configs/t4.pbtxt", True, True),
            ("config.pbtxt", True, True),
        ]
        assert {str(model), str(model / "configs")} <= synced

    def test_a_build_that_json_cannot_hold_is_refused_before_anything_is_written(self, repository):
        put(repository)
        before = tree(repository)
        with pytest.raises(ValueError, match="JSON"):
            put(repository, OTHER_FILES, build={"map": float("nan")})
        assert tree(repository) == before


@pytest.mark.parametrize("name", ["shapes", "yolo11n-640_fp16.v2", "_", "-a", "A" * 100])
def test_model_names_that_triton_takes(name):
    assert check_model_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "a b", "ä", "a\n", "A" * 101, "a@b"])
def test_other_model_names_are_refused(repository, name):
    with pytest.raises(SpecError, match="model name: expected"):
        put(repository, name=name)
    assert not repository.exists()


class Interruptions:
    """Does something at the n-th file system call of this process; Python's audit events announce each of them."""

    def __init__(self, action, events=("open", "os.", "shutil.", "fcntl.")):
        self.remaining = 0
        self.action = action
        self.events = events
        sys.addaudithook(self)

    def disarm(self):
        """No action any more; returns whether it has been taken."""
        taken, self.remaining = self.remaining == 0, 0
        return taken

    def __call__(self, event, arguments):
        if self.remaining and event.startswith(self.events):
            self.remaining -= 1
            if self.remaining == 0:
                self.action()


def in_child(function):
    """Run a function in a process of its own; returns its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(function() or 0)
        except BaseException:
            traceback.print_exc()
            os._exit(70)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(nth, function):
    """Whether the function was killed, as by kill -9, before its n-th file system call; False: it made fewer."""

    def run():
        Interruptions(lambda: os.kill(os.getpid(), signal.SIGKILL)).remaining = nth
        function()

    code = in_child(run)
    assert code in (0, -signal.SIGKILL)
    return code != 0


@pytest.fixture
def no_sync(monkeypatch):
    """A killed process loses nothing that it wrote; only a power cut does, and no test can make one."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("no_sync")
class TestKilled:
    def test_the_last_version_stays_whole_and_the_next_build_cleans_up(self, repository):
        seen = set()
        for nth in range(1, 1000):
            name = f"m{nth}"
            put(repository, name=name)
            killed = killed_at(nth, lambda name=name: put(repository, OTHER_FILES, name=name, gpus=("t4", "l4")))
            assert findings(repository, name) == []
            configs_on = {
                path.name: path.read_text().split("versions: [")[1][0]
                for path in [repository / name / "config.pbtxt", *(repository / name / "configs").iterdir()]
            }
            seen.add(tuple(sorted(configs_on.items())))
            # Whoever finds the default configuration new finds every other one new as well.
            assert configs_on["config.pbtxt"] == "1" or set(configs_on.values()) == {"2"}

            published = put(repository, OTHER_FILES, name=name, gpus=("t4", "l4"))
            assert published.version == 2
            assert findings(repository, name) == []
            assert sorted(path.name for path in (repository / name).iterdir()) == ["1", "2", "config.pbtxt", "configs"]
            assert sorted(path.name for path in repository.iterdir() if path.is_file()) == []
            if not killed:
                break
        assert not killed
        # Before, between and after the four configurations.
        assert len(seen) == 5

    def test_a_first_version_that_was_killed_does_not_show_in_the_repository(self, repository):
        put(repository, name="serving")
        for nth in range(1, 1000):
            name = f"m{nth}"
            killed = killed_at(nth, lambda name=name: put(repository, name=name))
            shown = {path.name for path in repository.iterdir() if path.is_dir()}
            assert shown in ({"serving"}, {"serving", name})
            assert findings(repository) == []
            published = put(repository, name=name)
            assert published.version == 1
            assert list(repository.parent.iterdir()) == [repository]
            assert sorted(path.name for path in repository.iterdir()) == sorted(["serving", name])
            for path in sorted((repository / name).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (repository / name).rmdir()
            if not killed:
                break
        assert not killed

    def test_the_lock_of_a_killed_build_hinders_nobody(self, repository):
        repository.mkdir(parents=True)
        (repository / ".shapes.lock").touch()
        assert put(repository).version == 1
        assert not (repository / ".shapes.lock").exists()

    def test_leftovers_of_another_model_are_left_to_it(self, repository):
        put(repository, name="shapes")
        theirs = [
            repository.parent / ".repository@shapes.tmp-1.tmp-77-0123abcd",
            repository.parent / ".other@shapes.tmp-77-0123abcd",
        ]
        ours = [repository.parent / ".repository@shapes.tmp-77-0123abcd", repository / "shapes" / ".tmp-77-0123abcd"]
        for folder in (*theirs, *ours):
            (folder / "1").mkdir(parents=True)
        put(repository, name="shapes")
        assert all(folder.exists() for folder in theirs)
        assert not any(folder.exists() for folder in ours)


@pytest.mark.usefixtures("no_sync")
class TestFailing:
    @pytest.mark.parametrize("first", [True, False], ids=["first version", "next version"])
    def test_a_full_disk_at_any_moment_leaves_the_repository_as_it_was(self, tmp_path, first):
        def fail():
            raise OSError(errno.ENOSPC, "No space left on device")

        def every_call():
            interruptions = Interruptions(fail, events=("open", "os."))
            failures, messages = 0, set()
            for nth in range(1, 1000):
                repository = tmp_path / str(nth) / "repository"
                repository.parent.mkdir()
                if not first:
                    put(repository)
                before = tree(repository.parent)
                interruptions.remaining = nth
                try:
                    put(repository, OTHER_FILES, gpus=("t4", "l4"))
                except RepositoryError as error:
                    failures += 1
                    messages.add(re.sub(r" \(.*\)", "", str(error).replace(str(repository), "HERE").split(";")[0]))
                    assert tree(repository.parent) == before, f"call {nth}"
                else:
                    # What is looked for and may be missing, and what is removed at the end, may fail without harm.
                    failed = interruptions.disarm()
                    assert findings(repository) == []
                    if not failed:
                        assert messages == {"cannot publish shapes in HERE: No space left on device"}
                        assert failures > 30
                        return 0
            return 1

        assert in_child(every_call) == 0

    def test_ctrl_c_at_any_moment_leaves_the_old_or_the_new(self, tmp_path):
        def interrupt():
            raise KeyboardInterrupt

        def every_call():
            interruptions = Interruptions(interrupt)
            for nth in range(1, 1000):
                repository = tmp_path / str(nth)
                put(repository)
                interruptions.remaining = nth
                with contextlib.suppress(KeyboardInterrupt):
                    put(repository, OTHER_FILES)
                interrupted = interruptions.disarm()
                assert findings(repository) == []
                # The lock is free again within the same process.
                assert put(repository, OTHER_FILES).version == 2
                assert findings(repository) == []
                if not interrupted:
                    return 0
            return 1

        assert in_child(every_call) == 0

    def test_a_disk_that_fills_up_is_named(self, small_disk):
        repository = small_disk / "repository"
        put(repository)
        before = tree(small_disk)
        with pytest.raises(RepositoryError, match=r"cannot publish shapes in .*: No space left on device.*as it was"):
            put(repository, {**FILES, "model.onnx": bytes(4 << 20)})
        assert tree(small_disk) == before
        assert put(repository, OTHER_FILES).version == 2

    def test_the_file_that_a_full_disk_cannot_take_is_named_and_not_the_one_that_is_copied(self, small_disk, tmp_path):
        (tmp_path / "source.onnx").write_bytes(bytes(4 << 20))
        put(small_disk / "repository")
        with pytest.raises(RepositoryError, match=r"No space left on device \(.*/shapes/\S+/2/model\.onnx\)") as caught:
            put(small_disk / "repository", {**FILES, "model.onnx": tmp_path / "source.onnx"})
        assert "source.onnx" not in str(caught.value)

    def test_a_repository_that_is_a_mount_point_takes_a_first_version(self, small_disk):
        assert put(small_disk).version == 1
        assert findings(small_disk) == []
        assert list(small_disk.iterdir()) == [small_disk / "shapes"]
        with pytest.raises(RepositoryError, match="No space left"):
            put(small_disk, {"model.onnx": bytes(4 << 20)}, name="other")
        assert list(small_disk.iterdir()) == [small_disk / "shapes"]

    def test_a_folder_that_cannot_be_written_is_named(self, read_only_folder):
        before = tree(read_only_folder)
        for repository in (read_only_folder, read_only_folder / "new"):
            with pytest.raises(RepositoryError, match=r"cannot publish shapes in .*: (Read-only|Permission denied)"):
                put(repository)
        assert tree(read_only_folder) == before

    @pytest.mark.parametrize("place", ["repository", "repository/shapes", "repository/shapes/configs"])
    def test_a_file_where_a_folder_should_be_is_named(self, repository, place):
        wrong = repository.parent / place
        wrong.parent.mkdir(parents=True)
        wrong.write_text("a file")
        before = tree(repository.parent)
        with pytest.raises(RepositoryError, match=f"cannot publish shapes in .*{place}") as caught:
            put(repository)
        assert "\n" not in str(caught.value)
        assert tree(repository.parent) == before

    def test_a_model_folder_that_is_a_link_is_refused(self, repository, tmp_path):
        repository.mkdir(parents=True)
        (tmp_path / "elsewhere").mkdir()
        (repository / "shapes").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(RepositoryError, match="found a symbolic link"):
            put(repository)
        assert tree(tmp_path / "elsewhere") == {}

    def test_a_source_file_that_is_missing_is_named(self, repository, tmp_path):
        with pytest.raises(RepositoryError, match=r"No such file or directory \(.*/gone\.onnx\)"):
            put(repository, {"model.onnx": tmp_path / "gone.onnx"})
        assert not repository.exists()


@pytest.mark.usefixtures("no_sync")
class TestSeveral:
    def test_builds_at_once_all_become_whole_versions(self, repository):
        def build(number):
            return lambda: put(repository, {**FILES, "model.onnx": f"weights {number}".encode() * 1000}) and 0

        children = []
        for number in range(6):
            child = os.fork()
            if child == 0:
                os._exit(in_child(build(number)))
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
        assert findings(repository) == []
        assert sorted(path.name for path in (repository / "shapes").iterdir()) == [
            *("1", "2", "3", "4", "5", "6", "config.pbtxt", "configs")
        ]
        contents = {(repository / "shapes" / str(n) / "model.onnx").read_bytes()[:9] for n in range(1, 7)}
        assert contents == {f"weights {n}".encode() for n in range(6)}

    def test_the_same_build_twice_at_once_is_one_version(self, repository):
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                os._exit(in_child(lambda: put(repository) and 0))
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
        assert findings(repository) == []
        assert selected(repository) == 1
        assert not (repository / "shapes" / "2").exists()

    def test_a_build_outlasts_one_that_is_refused_in_a_repository_that_it_has_made(self, repository, monkeypatch):
        locked, say_locked = os.pipe()
        refusal, refuse = os.pipe()

        def refuse_content():
            os.write(say_locked, b"!")
            os.read(refusal, 1)
            raise RepositoryError("refused")

        def be_refused():
            with pytest.raises(RepositoryError, match="refused"):
                publish_content(repository, "shapes", refuse_content)

        child = os.fork()
        if child == 0:
            os._exit(in_child(be_refused))
        os.read(locked, 1)
        ended = []

        def see_it_undone(seconds):
            os.write(refuse, b"!")
            ended.append(os.waitpid(child, 0)[1])
            assert not repository.parent.exists()

        monkeypatch.setattr(time, "sleep", see_it_undone)
        assert put(repository).version == 1
        assert ended == [0]

    def test_a_build_that_holds_the_lock_for_too_long_is_reported(self, repository, monkeypatch):
        put(repository)
        before = tree(repository / "shapes")
        monkeypatch.setattr(builder.repository, "LOCK_TIMEOUT_S", 0.1)
        with (repository / ".shapes.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(RepositoryError, match="another build has been publishing shapes"):
                put(repository, OTHER_FILES)
        assert tree(repository / "shapes") == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MB."""
    with mounted(tmp_path / "disk", "size=2m") as folder:
        yield folder


@pytest.fixture
def read_only_folder(tmp_path):
    """A folder that even root cannot write, where root runs the tests."""
    if os.geteuid() != 0:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o555)
        yield folder
        folder.chmod(0o755)
        return
    with mounted(tmp_path / "disk", "size=1m,ro") as folder:
        yield folder


@contextlib.contextmanager
def mounted(folder, options):
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mount.returncode != 0:
        pytest.skip(f"needs the right to mount a file system: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


class TestWhatIsThereAlready:
    def test_somebody_elses_model_is_not_taken_over(self, repository):
        theirs = repository / "shapes"
        (theirs / "1").mkdir(parents=True)
        (theirs / "config.pbtxt").write_text('backend: "python"\n')
        with pytest.raises(RepositoryError, match=r"that this project has not published.* with --name"):
            put(repository, FILES)
        assert sorted(tree(repository)) == ["shapes", "shapes/1", "shapes/config.pbtxt"]
        assert (theirs / "config.pbtxt").read_text() == 'backend: "python"\n'

    def test_a_configuration_that_was_changed_by_hand_is_replaced_and_named(self, repository):
        assert put(repository, FILES).replaced_edits == ()
        config = repository / "shapes" / "configs" / "t4.pbtxt"
        published = config.read_text()
        config.write_text(published.replace("max_batch_size: 8", "max_batch_size: 4"))
        again = put(repository, FILES)
        assert (again.changed, again.replaced_edits) == (True, ("configs/t4.pbtxt",))
        assert config.read_text() == published
        assert put(repository, FILES).replaced_edits == ()
