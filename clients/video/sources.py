"""Where frames come from, as the command line names it: a camera's address, a video, a picture, or a folder of both.

Nothing here opens a source.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from clients.errors import ClientError

CAMERA_SCHEMES = frozenset({"http", "https", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
PICTURES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEOS = frozenset({".avi", ".flv", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm"})
LOWEST_PRIORITY = (1 << 32) - 1
"""As a request can have it."""
_NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<place>.+)", re.DOTALL)
_NOT_IN_FILE_NAMES = re.compile(r"[^\w.-]+")


class SourceError(ClientError):
    """A source of frames cannot be used."""


class SourceKind(enum.StrEnum):
    """What a source is, which decides how it is read."""

    CAMERA = "camera"
    """Live: never ends by itself, is connected to again when it is lost."""
    FILES = "files"
    """Videos and pictures, one after the other; ends after the last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One row of the table."""

    name: str
    """Unique among the sources of a run, and without the user and password of an address."""
    text: str
    """As it was given, without its name."""
    kind: SourceKind
    files: tuple[Path, ...] = ()
    """What a source of files consists of, in the order in which it is played."""
    priority: int = 0
    """Triton's: 1 is the highest, 0 leaves it to the server."""

    @property
    def file_stem(self) -> str:
        """The name as the beginning of a file's name."""
        return _NOT_IN_FILE_NAMES.sub("_", self.name).strip("._") or "source"


def sources_from(texts: Sequence[str], priorities: Sequence[str] = ()) -> list[Source]:
    """Read sources, each ``PLACE`` or ``NAME=PLACE``, and priorities, each ``SOURCE=LEVEL``; raises SourceError.

    A source without a name has that of its file or folder, or its address without user, password and query.
    """
    levels = dict(_priority_from(text) for text in priorities)
    used: set[str] = set()
    sources: list[Source] = []
    names: set[str] = set()
    for text in texts:
        name, place = _split(text)
        is_camera = "://" in place
        files = () if is_camera else _files(place)
        base = name or (_address_name(place) if is_camera else Path(place).resolve().name or place)
        unique, number = base, 1
        while unique in names:
            number += 1
            unique = f"{base}-{number}"
        names.add(unique)
        keys = [key for key in (unique, place, text) if key in levels]
        used.update(keys)
        kind = SourceKind.CAMERA if is_camera else SourceKind.FILES
        priority = levels[keys[0]] if keys else 0
        sources.append(Source(name=unique, text=place, kind=kind, files=files, priority=priority))
    if unknown := sorted(levels.keys() - used):
        known = ", ".join(source.name for source in sources)
        raise SourceError(f"--priority names {_without_secrets(unknown[0])!r}, the sources are: {known}")
    return sources


def _split(text: str) -> tuple[str, str]:
    """Name, empty where none is given, and place."""
    match = None if _exists(text) else _NAMED.fullmatch(text)
    name, place = (match["name"], match["place"]) if match else ("", text)
    if not place:
        raise SourceError("expected a file, a folder or a camera's address, got an empty source")
    if "://" in place and (scheme := place.partition("://")[0].lower()) not in CAMERA_SCHEMES:
        known = ", ".join(sorted(CAMERA_SCHEMES))
        raise SourceError(f"cannot read {_without_secrets(place)!r}: scheme {scheme!r} is not one of {known}")
    return name, place


def _address_name(address: str) -> str:
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise SourceError(f"cannot read {_without_secrets(address)!r} as a camera's address: {error}") from error
    return f"{parts.scheme}://{host}{port}{parts.path}".rstrip("/")


def _without_secrets(text: str) -> str:
    """An address that can be shown: without user, password and query, where tokens are."""
    return re.sub(r"(?<=://)[^/]*@", "", text).partition("?")[0] if "://" in text else text


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a name
        return False


def _files(place: str) -> tuple[Path, ...]:
    path = Path(place)
    if _exists(place) and path.is_dir():
        files = sorted(each for each in path.iterdir() if each.suffix.lower() in PICTURES | VIDEOS and each.is_file())
        if not files:
            suffixes = " ".join(sorted(PICTURES | VIDEOS))
            raise SourceError(f"folder {place} holds no video and no picture, expected files that end in {suffixes}")
        return tuple(files)
    if not (_exists(place) and path.is_file()):
        hint = "; a name in front of = has letters, digits and _ . - only" if "=" in place else ""
        raise SourceError(
            f"no file or folder {place}: give a video, a picture, a folder of them, or a camera as rtsp://HOST/PATH"
            f"{hint}"
        )
    return (path,)


def _priority_from(text: str) -> tuple[str, int]:
    name, equals, level = text.rpartition("=")
    is_number = level.isascii() and level.isdigit() and len(level) <= len(str(LOWEST_PRIORITY))
    if not (name and equals and is_number and 1 <= int(level) <= LOWEST_PRIORITY):
        raise SourceError(
            f"expected --priority SOURCE=LEVEL with a level from 1 to {LOWEST_PRIORITY}, got {_without_secrets(text)!r}"
        )
    return name, int(level)
