"""``python -m trainer``: arguments that a file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.cli import main, parser
from trainer.train_command import settings_of

ROOT = Path(__file__).resolve().parents[3]


def test_a_file_holds_several_arguments_a_line_and_later_ones_win(tmp_path: Path) -> None:
    (tmp_path / "some.args").write_text('# a comment\n--epochs 7 --model "a b.yaml"  # its end\n\n--set nbs=16\n')
    arguments = parser().parse_args(
        ["train", f"@{tmp_path}/some.args", "--data", "d.yaml", "--run", "r", "--epochs", "2", "--set", "mosaic=0"]
    )
    settings, _ = settings_of(arguments)
    assert (settings.epochs, settings.model, settings.data) == (2, "a b.yaml", Path("d.yaml"))
    assert settings.hyperparameters == {"nbs": 16, "mosaic": 0.0}


def test_the_samples_arguments_are_a_training() -> None:
    request = ["train", f"@{ROOT}/examples/shapes/train.args", "--data", "d.yaml", "--run", "r"]
    settings, _ = settings_of(parser().parse_args(request))
    assert settings.model == "examples/shapes/yolo11-narrow.yaml"
    assert (ROOT / settings.model).is_file()
    assert (settings.imgsz, settings.channels_last, settings.hyperparameters["cos_lr"]) == (320, True, True)


@pytest.mark.parametrize(
    ("content", "told"), [('--model "half', "No closing quotation"), (None, "No such file or directory")]
)
def test_a_file_that_cannot_be_read_is_a_wrong_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "some.args").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["train", f"@{tmp_path}/some.args"])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
