"""Sources as the command line names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients.video.sources import SourceError, SourceKind, sources_from


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "door.mp4"
    path.touch()
    return path


def test_a_file_is_named_after_itself(video: Path) -> None:
    (source,) = sources_from([str(video)])
    assert (source.name, source.kind, source.files) == ("door.mp4", SourceKind.FILES, (video,))


def test_a_folder_is_one_source_of_its_videos_and_pictures_in_order(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.jpg", "c.mkv", "notes.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "d.mp4").mkdir()
    (source,) = sources_from([str(tmp_path)])
    assert [file.name for file in source.files] == ["a.jpg", "b.MP4", "c.mkv"]
    assert source.name == tmp_path.name


def test_a_camera_is_shown_without_its_secrets() -> None:
    (source,) = sources_from(["rtsp://admin:hunter2@10.0.0.7:554/live?token=hunter2"])
    assert source.kind is SourceKind.CAMERA
    assert source.name == "rtsp://10.0.0.7:554/live"
    assert source.text == "rtsp://admin:hunter2@10.0.0.7:554/live?token=hunter2"
    assert source.file_stem == "rtsp_10.0.0.7_554_live"


def test_a_source_may_be_named() -> None:
    (source,) = sources_from(["yard=rtsp://10.0.0.7/live?a=b"])
    assert (source.name, source.text) == ("yard", "rtsp://10.0.0.7/live?a=b")


def test_a_file_whose_name_holds_an_equals_sign_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.mp4").touch()
    (source,) = sources_from(["a=b.mp4"])
    assert source.name == "a=b.mp4"


def test_names_are_unique(video: Path) -> None:
    names = [source.name for source in sources_from([str(video), str(video), "door.mp4-2=rtsp://a/b", str(video)])]
    assert names == ["door.mp4", "door.mp4-2", "door.mp4-2-2", "door.mp4-3"]


def test_priorities_go_by_name_or_address(video: Path) -> None:
    address = "rtsp://u:p@a/b?c=d"
    sources = sources_from([f"gate={address}", str(video), "rtsp://x/y"], ["gate=1", f"{video}=3"])
    assert [source.priority for source in sources] == [1, 3, 0]
    assert sources_from([address], [f"{address}=2"])[0].priority == 2


@pytest.mark.parametrize(
    ("texts", "priorities", "message"),
    [
        (["gone.mp4"], [], "no file or folder gone.mp4: give a video"),
        (["x" * 5000], [], "no file or folder"),
        (["name="], [], "no file or folder name="),
        ([""], [], "got an empty source"),
        (["gopher://u:secret@a/b"], [], "cannot read 'gopher://a/b': scheme 'gopher' is not one of"),
        (["rtsp://u:secret@a:port/b"], [], "cannot read 'rtsp://a:port/b' as a camera's address"),
        (["rtsp://a/b"], ["c=1"], "--priority names 'c', the sources are: rtsp://a/b"),
        (["rtsp://a/b"], ["rtsp://u:secret@c/d?t=secret=1"], "--priority names 'rtsp://c/d'"),
        (["rtsp://a/b"], ["rtsp://a/b=0"], "expected --priority SOURCE=LEVEL with a level from 1"),
        (["rtsp://a/b"], ["rtsp://a/b=4294967296"], "with a level from 1 to 4294967295, got"),
        (["rtsp://a/b"], ["rtsp://a/b=" + "9" * 5000], "with a level from 1 to 4294967295, got"),
        (["my cam=a.mp4"], [], "no file or folder my cam=a.mp4: give a video"),
        (["my cam=a.mp4"], [], "a name in front of = has letters, digits and _ . - only"),
        (["rtsp://a/b"], ["1"], "expected --priority SOURCE=LEVEL"),
        (["rtsp://a/b"], ["rtsp://a/b=high"], "expected --priority SOURCE=LEVEL"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line_without_secrets(
    texts: list[str], priorities: list[str], message: str
) -> None:
    with pytest.raises(SourceError) as caught:
        sources_from(texts, priorities)
    assert message in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no video and no picture"):
        sources_from([str(tmp_path)])
