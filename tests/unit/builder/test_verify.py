"""What ``verify`` finds in a repository that is no longer as it was published."""

import json
import os

import pytest

from builder.artifacts import ConfigFile
from builder.errors import RepositoryError
from builder.repository import publish
from builder.verify import verify


def put(repository, weights, name="shapes", gpu="t4"):
    def configs(version):
        text = f'name: "{name}"\nversion_policy {{ specific {{ versions: [{version}] }} }}\n'
        return tuple(
            ConfigFile(relative_path=path, text=text)
            for path in ("configs/cpu.pbtxt", f"configs/{gpu}.pbtxt", "config.pbtxt")
        )

    files = {"model.onnx": weights, "model.py": b"# serves", "labels.txt": b"circle\n"}
    publish(
        repository,
        name,
        files=files,
        configs=configs,
        build={"map50": 0.5, "sizes": (1, 2), "by_number": {10: 1, 9: 2}},
    )


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with two versions, of which the second is in use."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    put(tmp_path / "repository", b"one")
    put(tmp_path / "repository", b"two")
    return tmp_path / "repository"


@pytest.fixture
def model(repository):
    return repository / "shapes"


def lines(repository, name=None):
    return [line for report in verify(repository, name) for line in str(report).splitlines()]


def test_a_repository_as_published_is_ok(repository):
    put(repository, b"three", name="bottles")
    assert lines(repository) == ["bottles 1: ok (7 files)", "shapes 2: ok (14 files)"]


def test_one_model_can_be_asked_for(repository, model):
    put(repository, b"three", name="bottles")
    (model / "2" / "model.onnx").unlink()
    assert lines(repository, "bottles") == ["bottles 1: ok (7 files)"]
    assert [report.ok for report in verify(repository)] == [True, False]
    assert lines(repository, "shapes") == ["shapes 2: model.onnx: missing"]


def damage_nothing_but(path, change):
    """A test case: what is done to one path below the model."""
    return lambda model: change(model / path)


def edit_manifest(change):
    def edit(path):
        manifest = json.loads(path.read_text())
        change(manifest)
        path.write_text(json.dumps(manifest))

    return edit


DAMAGES = {
    "changed byte": (
        damage_nothing_but("2/model.onnx", lambda path: path.write_bytes(b"tvo")),
        "shapes 2: model.onnx: expected sha256 3fc4ccfe7458..., found 567dd2a2fa29...",
    ),
    "truncated file": (
        damage_nothing_but("2/model.onnx", lambda path: path.write_bytes(b"t")),
        "shapes 2: model.onnx: expected 3 bytes, found 1",
    ),
    "missing file, in a version not in use": (
        damage_nothing_but("1/labels.txt", lambda path: path.unlink()),
        "shapes 1: labels.txt: missing",
    ),
    "extra file": (
        damage_nothing_but("2/model.plan", lambda path: path.write_bytes(b"")),
        "shapes 2: model.plan: not in the manifest",
    ),
    "extra file in a folder": (
        damage_nothing_but("2/warmup/frame", lambda path: (path.parent.mkdir(), path.write_bytes(b""))),
        "shapes 2: warmup/frame: not in the manifest",
    ),
    "folder in a file's place": (
        damage_nothing_but("2/model.onnx", lambda path: (path.unlink(), path.mkdir())),
        "shapes 2: model.onnx: expected a regular file",
    ),
    "pipe in a file's place": (
        damage_nothing_but("2/model.onnx", lambda path: (path.unlink(), os.mkfifo(path))),
        "shapes 2: model.onnx: expected a regular file",
    ),
    "code that python would run instead of model.py": (
        damage_nothing_but("2/__pycache__/numpy.pyc", lambda path: (path.parent.mkdir(), path.write_bytes(b""))),
        "shapes 2: __pycache__/numpy.pyc: not in the manifest",
    ),
    "version without a manifest": (
        damage_nothing_but("2/manifest.json", lambda path: path.unlink()),
        "shapes 2: manifest.json: missing, so nothing says what this version should hold",
    ),
    "empty version": (
        damage_nothing_but("3", lambda path: path.mkdir()),
        "shapes 3: manifest.json: missing, so nothing says what this version should hold",
    ),
    "manifest that is no JSON": (
        damage_nothing_but("2/manifest.json", lambda path: path.write_text("{")),
        "shapes 2: manifest.json: expected JSON, got: Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1)",
    ),
    "manifest that is a list": (
        damage_nothing_but("2/manifest.json", lambda path: path.write_text("[]")),
        "shapes 2: manifest.json: expected schema_version 1, got 'list'",
    ),
    "manifest of a later program": (
        damage_nothing_but("2/manifest.json", edit_manifest(lambda manifest: manifest.update(schema_version=2))),
        "shapes 2: manifest.json: expected schema_version 1, got 2; a newer release of this project wrote it",
    ),
    "manifest without hashes": (
        damage_nothing_but("2/manifest.json", edit_manifest(lambda manifest: manifest.update(files={"model.onnx": 3}))),
        "shapes 2: manifest.json: expected 'files' to give bytes and sha256 of every file",
    ),
    "manifest of another version": (
        damage_nothing_but("2/manifest.json", edit_manifest(lambda manifest: manifest.update(version=1))),
        "shapes 2: manifest.json: expected version 2, as the folder says, got 1",
    ),
    "manifest of another model": (
        damage_nothing_but("2/manifest.json", edit_manifest(lambda manifest: manifest.update(name="bottles"))),
        "shapes 2: manifest.json: expected name 'shapes', as the folder says, got 'bottles'",
    ),
    "manifest with a better figure than was measured": (
        damage_nothing_but("2/manifest.json", edit_manifest(lambda manifest: manifest["build"].update(map50=0.99))),
        "shapes 2: manifest.json: was changed since it was published, its manifest_sha256 is that of another content",
    ),
    "manifest whose own hash was changed": (
        damage_nothing_but(
            "2/manifest.json", edit_manifest(lambda manifest: manifest.update(manifest_sha256="0" * 64))
        ),
        "shapes 2: manifest.json: was changed since it was published, its manifest_sha256 is that of another content",
    ),
    "manifest that holds no text": (
        damage_nothing_but("2/manifest.json", edit_manifest(lambda manifest: manifest["build"].update(map50="\ud800"))),
        "shapes 2: manifest.json: was changed since it was published, its manifest_sha256 is that of another content",
    ),
    "manifest without its own hash": (
        damage_nothing_but("2/manifest.json", edit_manifest(lambda manifest: manifest.pop("manifest_sha256"))),
        "shapes 2: manifest.json: expected manifest_sha256, found none: changed, or of an older release; build again",
    ),
    "manifest that names a file elsewhere": (
        damage_nothing_but(
            "2/manifest.json",
            edit_manifest(lambda manifest: manifest["files"].update({"../1/x": {"bytes": 1, "sha256": ""}})),
        ),
        "shapes 2: ../1/x: the manifest names a file outside the version's folder",
    ),
    "config edited by hand": (
        damage_nothing_but("config.pbtxt", lambda path: path.write_text(path.read_text() + "max_batch_size: 4\n")),
        "shapes: config.pbtxt: differs from 2/configs/config.pbtxt, as it was published",
    ),
    "config that is no config": (
        damage_nothing_but("configs/t4.pbtxt", lambda path: path.write_text("max_batch_sise: 4\n")),
        "shapes: configs/t4.pbtxt: expected a Triton model configuration, got: "
        '1:1 : Message type "inference.ModelConfig" has no field named "max_batch_sise".',
    ),
    "config that is no text": (
        damage_nothing_but("configs/t4.pbtxt", lambda path: path.write_bytes(b"\xff\xfe")),
        "shapes: configs/t4.pbtxt: expected a Triton model configuration, got: "
        "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    "config that names another model": (
        damage_nothing_but("config.pbtxt", lambda path: path.write_text(path.read_text().replace("shapes", "bottles"))),
        "shapes: config.pbtxt: expected name 'shapes', as the folder says, got 'bottles'",
    ),
    "config that names a version that is not there": (
        damage_nothing_but("config.pbtxt", lambda path: path.write_text(path.read_text().replace("[2]", "[7]"))),
        "shapes: config.pbtxt: names version 7, which is not there; tritonserver would not load the model",
    ),
    "config that names several versions": (
        damage_nothing_but("config.pbtxt", lambda path: path.write_text(path.read_text().replace("[2]", "[1, 2]"))),
        "shapes: config.pbtxt: expected a version_policy that names one specific version, got [1, 2]",
    ),
    "config that names the latest version": (
        damage_nothing_but("config.pbtxt", lambda path: path.write_text('name: "shapes"\n')),
        "shapes: config.pbtxt: expected a version_policy that names one specific version, got []",
    ),
    "config of nobody's": (
        damage_nothing_but("configs/mine.pbtxt", lambda path: path.write_text((path.parent / "t4.pbtxt").read_text())),
        "shapes: configs/mine.pbtxt: names version 2, which was not published with it",
    ),
    "config of this version that is missing": (
        damage_nothing_but("configs/cpu.pbtxt", lambda path: path.unlink()),
        "shapes: configs/cpu.pbtxt: missing, version 2 was published with it",
    ),
    "default config that is missing": (
        damage_nothing_but("config.pbtxt", lambda path: path.unlink()),
        "shapes: config.pbtxt: missing",
    ),
    "stray file": (
        damage_nothing_but("notes.txt", lambda path: path.write_text("?")),
        "shapes: notes.txt: not in any manifest",
    ),
    "stray folder": (
        damage_nothing_but("01", lambda path: path.mkdir()),
        "shapes: 01: not in any manifest",
    ),
    "link to nothing beside the models": (
        damage_nothing_but("../dead", lambda path: path.symlink_to("/nowhere")),
        "dead: a symbolic link to /nowhere, where nothing is; tritonserver loads no model beside it; remove it",
    ),
    "link to nothing in a model": (
        damage_nothing_but("dead", lambda path: path.symlink_to("/nowhere")),
        "shapes: dead: not in any manifest",
    ),
    "link to nothing in a version": (
        damage_nothing_but("2/dead", lambda path: path.symlink_to("/nowhere")),
        "shapes 2: dead: missing",
    ),
    "hidden folder beside the models": (
        damage_nothing_but("../.git", lambda path: path.mkdir()),
        ".git: tritonserver takes a hidden folder for a model too, and does not start with it; move it elsewhere",
    ),
}


@pytest.mark.parametrize(("damage", "expected"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found(repository, model, damage, expected):
    damage(model)
    found = [line for line in lines(repository) if not line.endswith("files)")]
    # A manifest or config that says something else is at odds with more than one thing.
    assert expected in found
    assert all(line.startswith(expected.split(":")[0]) for line in found)
    assert len(found) <= 2


@pytest.mark.parametrize(
    "place", ["2/model.onnx", "2/configs", "2", "config.pbtxt", "configs/t4.pbtxt", "../shapes", "2/x"]
)
def test_a_link_that_leads_out_of_the_repository_is_found(repository, model, place, tmp_path):
    link = (model / place).parent.resolve() / (model / place).name
    target = tmp_path / "outside"
    link.rename(target) if link.exists() else target.write_text("secret")
    link.symlink_to(target)
    found = lines(repository)
    assert any(f"a symbolic link to {target}" in line and "outside the repository" in line for line in found)


def test_what_python_leaves_beside_a_model_that_was_served_is_no_damage(repository, model):
    (model / "2" / "__pycache__").mkdir()
    (model / "2" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"compiled")
    assert lines(repository) == ["shapes 2: ok (14 files)"]


def test_a_build_that_was_killed_is_no_damage(repository, model):
    (model / ".tmp-1-0123abcd" / "3").mkdir(parents=True)
    (repository / ".shapes.lock").touch()
    (repository / "README.md").touch()
    assert lines(repository) == ["shapes 2: ok (14 files)"]


def test_every_finding_is_reported_at_once(repository, model):
    (model / "1" / "model.py").unlink()
    (model / "2" / "model.py").unlink()
    (model / "notes.txt").touch()
    assert lines(repository) == [
        "shapes: notes.txt: not in any manifest",
        "shapes 1: model.py: missing",
        "shapes 2: model.py: missing",
    ]


def test_a_model_of_somebody_else_is_no_damage(repository):
    neighbour = repository / "neighbour"
    (neighbour / "1").mkdir(parents=True)
    (neighbour / "1" / "model.py").write_text("# serves")
    (neighbour / "config.pbtxt").write_text('name: "neighbour"\n')
    assert lines(repository) == [
        "neighbour: not published by this project, not checked",
        "shapes 2: ok (14 files)",
    ]
    assert all(report.ok for report in verify(repository))
    with pytest.raises(RepositoryError, match=r"expected model neighbour of .* to be published by this project"):
        verify(repository, "neighbour")


def test_a_repository_without_a_model_of_ours_is_an_error(tmp_path):
    (tmp_path / "neighbour" / "1").mkdir(parents=True)
    (tmp_path / "neighbour" / "config.pbtxt").write_text('name: "neighbour"\n')
    with pytest.raises(RepositoryError, match=r"expected a model of .* to be published by this project"):
        verify(tmp_path)


def test_a_model_of_ours_that_lost_its_manifests_is_still_ours(repository, model):
    for version in ("1", "2"):
        (model / version / "manifest.json").unlink()
    assert not any(report.ok for report in verify(repository))


def test_a_folder_that_is_no_model_is_found(repository):
    (repository / "lost+found").mkdir()
    (repository / "self").symlink_to(".")
    what = "no model, and tritonserver takes every folder for one, and does not start with it; move it elsewhere"
    assert lines(repository) == [f"lost+found: {what}", f"self: {what}", "shapes 2: ok (14 files)"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere", "expected a model repository at .*nowhere, found nothing; write one with: python -m builder build"),
        ("a-file", "expected a model repository at .*a-file, found a file"),
        ("empty", "expected at least one model in .*empty, found none"),
    ],
)
def test_a_repository_that_is_none_is_an_error(tmp_path, place, message):
    (tmp_path / "a-file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(RepositoryError, match=message):
        verify(tmp_path / place)


def test_an_unknown_model_is_told_the_known_ones(repository):
    with pytest.raises(RepositoryError, match=r"expected a model named shape in .*, found shapes"):
        verify(repository, "shape")
