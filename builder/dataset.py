"""Images and their labels, as Ultralytics' data.yaml names them; nothing is ever downloaded, nothing left out.

Images are listed, not opened: whoever reads them counts and names those that cannot be read.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from builder.errors import DataError
from builder.labels import read_labels

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dng .heic .heif .jp2 .jpeg .jpg .mpo .png .tif .tiff .webp".split()  # noqa: SIM905
)
"""What Ultralytics takes for an image, by its name. Of these the client reads JPEG, PNG, WebP, BMP and TIFF."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataImage:
    """One image and what is on it."""

    path: Path
    classes_N: NDArray[np.int64] | None
    """None where no labels are known; empty for an image of background alone."""
    boxes_N4: NDArray[np.float64]
    """x1 y1 x2 y2 as fractions of the image's width and height, clipped to 0..1."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DataSplit:
    """The images of one split, or of one folder."""

    source: Path
    split: str | None
    """None for a bare folder."""
    names: tuple[str, ...]
    """Class names in the order of their numbers; empty for a bare folder."""
    images: tuple[DataImage, ...]
    """Sorted by path; at least one."""
    duplicates: int = 0
    """Label lines that repeat another of their file; they are left out, as Ultralytics does."""


def read_data(source: Path, split: str) -> DataSplit:
    """The ``split`` of a data.yaml, or every image of a folder.

    Raises:
        DataError: see ``read_split`` and ``read_folder``.
    """
    return read_folder(source) if source.is_dir() else read_split(source, split)


def read_folder(folder: Path) -> DataSplit:
    """Every image below a folder, without labels.

    Raises:
        DataError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found {_found(folder)}.")
    paths = _images_of([folder])
    if not paths:
        raise DataError(f"{folder}: expected images ({_suffixes()}) in this folder, found none.")
    images = (DataImage(path=path, classes_N=None, boxes_N4=np.zeros((0, 4))) for path in paths)
    return DataSplit(source=folder, split=None, names=(), images=tuple(images))


def read_split(source: Path, split: str) -> DataSplit:
    """One split of an Ultralytics data.yaml with its labels, which lie in ``labels`` where images lie in ``images``.

    Raises:
        DataError: the yaml, a folder or list that it names or every image is missing, it lacks the split or the class
            names, or a label is wrong (see ``read_labels``).
    """
    if split not in SPLITS:
        raise DataError(f"expected the split train, val or test, got {split!r}.")
    content = _read_yaml(source)
    names = _names(content, source)
    keypoint_values = _keypoint_values(content, source)
    places = _places(content, source, split)
    paths = _images_of(places)
    if not paths:
        where = ", ".join(map(str, places))
        raise DataError(f"{source}: the split {split!r} is empty: no images ({_suffixes()}) in {where}.")
    images, duplicates = [], 0
    for path in paths:
        labels = read_labels(label_path(path), len(names), keypoint_values)
        images.append(DataImage(path=path, classes_N=labels.classes_N, boxes_N4=labels.boxes_N4))
        duplicates += labels.duplicates
    return DataSplit(source=source, split=split, names=names, images=tuple(images), duplicates=duplicates)


def check_names(split: DataSplit, names: tuple[str, ...]) -> None:
    """Pass where a model's class names are the data's, in the same order; a bare folder has none to differ.

    Raises:
        DataError: they differ.
    """
    if not split.names or split.names == names:
        return
    if len(split.names) != len(names):
        reason = f"the data has {len(split.names)} classes ({_some(split.names)}), the model {len(names)}"
        raise DataError(f"{split.source}: {reason} ({_some(names)}): give the data that the model was trained for.")
    number, theirs, ours = next((n, a, b) for n, (a, b) in enumerate(zip(split.names, names, strict=True)) if a != b)
    raise DataError(
        f"{split.source}: class {number} is {theirs!r} in the data and {ours!r} in the model: give the data that the "
        "model was trained for, with its classes in the same order."
    )


def label_path(image: Path) -> Path:
    """Where Ultralytics looks for an image's labels: the last folder ``images`` becomes ``labels``, the suffix .txt."""
    images, labels = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return Path(labels.join(str(image).rsplit(images, 1))).with_suffix(".txt")


def _read_yaml(source: Path) -> dict[str, Any]:
    import yaml

    if not source.is_file():
        raise DataError(f"{source}: expected a data.yaml, found {_found(source)}.")
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise DataError(f"{source} cannot be read: {e.strerror}.") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise DataError(f"{source} is no YAML: {' '.join(str(e).split())[:200]}.") from e
    if not isinstance(content, dict):
        raise DataError(f"{source}: expected 'train:', 'val:' and 'names:', it holds {type(content).__name__}.")
    return content


def _names(content: Mapping[str, Any], source: Path) -> tuple[str, ...]:
    """From ``names`` as a list or a dictionary by number; from ``nc`` where there are none, as Ultralytics does."""
    names, count = content.get("names"), content.get("nc")
    if names is None and isinstance(count, int) and not isinstance(count, bool) and count > 0:
        return tuple(f"class_{number}" for number in range(count))
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{source}: expected the class names in 'names:', a list or 'number: name'; got {names!r}.")
    try:
        by_number = {int(number): str(name) for number, name in names.items()}
    except (TypeError, ValueError) as e:
        raise DataError(f"{source}: expected whole numbers before the class names in 'names:' ({e}).") from e
    if sorted(by_number) != list(range(len(names))):
        found = ", ".join(map(str, sorted(by_number)[:8]))
        raise DataError(f"{source}: expected 'names:' numbered 0 to {len(names) - 1} without a gap, got {found}.")
    if count is not None and str(count) != str(len(names)):
        raise DataError(f"{source}: 'nc: {count}' and the {len(names)} 'names:' differ; mend one of them.")
    return tuple(by_number[number] for number in range(len(names)))


def _keypoint_values(content: Mapping[str, Any], source: Path) -> int:
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape)):
        raise DataError(f"{source}: expected 'kpt_shape: [points, 2 or 3]', got {shape!r}.")
    return int(shape[0] * shape[1])


def _places(content: Mapping[str, Any], source: Path, split: str) -> list[Path]:
    """The folders and lists of images of a split; each is there."""
    entry = content.get(split)
    if entry is None and split == "val":
        # The key's former name, which Ultralytics still takes.
        entry = content.get("validation")
    if not entry:
        has = ", ".join(name for name in SPLITS if content.get(name)) or "no split"
        raise DataError(f"{source}: expected images for the split {split!r}, it names none; it has: {has}.")
    entries = entry if isinstance(entry, list) else [entry]
    if not all(isinstance(each, str) for each in entries):
        raise DataError(f"{source}: expected '{split}:' to be a path or a list of paths, got {entry!r}.")
    root = _root(content, source)
    places = [_place(root, each) for each in entries]
    for each, place in zip(entries, places, strict=True):
        if not place.exists():
            raise DataError(
                f"{source}: '{split}: {each}' points nowhere: no {place}. Mend 'path:' or '{split}:'; a data set is "
                "never downloaded."
            )
    return places


def _root(content: Mapping[str, Any], source: Path) -> Path:
    """The data set's folder: where a relative ``path:`` lies from the yaml's folder, else where Ultralytics looks."""
    given = content.get("path")
    if given is not None and not isinstance(given, str):
        raise DataError(f"{source}: expected 'path:' to be a folder, got {given!r}.")
    here = source.absolute().parent
    if not given:
        return here
    candidates = [here / given, Path(given).absolute()]
    found = next((candidate for candidate in candidates if candidate.is_dir()), None)
    return found or _ultralytics_folder() / given


def _ultralytics_folder() -> Path:
    """Where Ultralytics keeps data sets."""
    from ultralytics.utils import DATASETS_DIR

    return Path(DATASETS_DIR)


def _place(root: Path, entry: str) -> Path:
    place = (root / entry).resolve()
    if not place.exists() and entry.startswith("../"):
        # Roboflow's exports say ../train/images of folders that lie beside the yaml; Ultralytics knows them.
        return (root / entry[3:]).resolve()
    return place


def _images_of(places: Iterable[Path]) -> list[Path]:
    """The images below folders and in lists, sorted."""
    paths: list[str] = []
    for place in places:
        # glob, not rglob: it follows links to folders and leaves hidden files out, as Ultralytics does.
        pattern = f"{glob.escape(str(place))}/**/*.*"
        paths += glob.glob(pattern, recursive=True) if place.is_dir() else _listed(place)  # noqa: PTH207
    return [Path(p) for p in sorted(paths) if Path(p).suffix.lower() in IMAGE_SUFFIXES]


def _listed(place: Path) -> list[str]:
    """The images that a text file names, one a line: ``./`` is the file's own folder, else the working folder."""
    try:
        lines = place.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{place}: expected a folder of images or a text file that lists them: {e}.") from e
    paths = []
    for line in filter(None, map(str.strip, lines)):
        beside = place.parent / line
        paths.append(str(beside if line.startswith("./") or not Path(line).exists() else Path(line).absolute()))
    return paths


def _found(path: Path) -> str:
    return "a file" if path.is_file() else "a folder" if path.is_dir() else "nothing there"


def _suffixes() -> str:
    return ", ".join(sorted(IMAGE_SUFFIXES))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
