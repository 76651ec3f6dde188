"""What the commands' arguments may be; each raises ArgumentTypeError with what was expected and what came."""

from __future__ import annotations

import argparse
import math

HIGHEST_COUNT = 256
LARGEST_PORT = 65535


def name(text: str) -> str:
    """The name of a model."""
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a model, got an empty one")
    return text


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def seconds(text: str) -> float:
    """Seconds above 0, and not for ever."""
    return _above_0(text, "seconds")


def above_0(text: str) -> float:
    """A finite number above 0."""
    return _above_0(text, "a number")


def count(text: str) -> int:
    """A whole number from 1 to ``HIGHEST_COUNT``."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= HIGHEST_COUNT):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {HIGHEST_COUNT}, got {text}")
    return int(text)


def port(text: str) -> int:
    """A port to listen on; 0 takes a free one."""
    if not (text.isascii() and text.isdigit() and int(text) <= LARGEST_PORT):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {LARGEST_PORT}, got {text}")
    return int(text)


def _above_0(text: str, what: str) -> float:
    value = _number(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected {what} above 0, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got {text}") from None
