"""What torch and Ultralytics say and look for beside their work."""

from __future__ import annotations

import os


def quiet_environment() -> None:
    """Before they are imported: torch's C++ says nothing of what is meant so, Ultralytics looks for no connection."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("YOLO_OFFLINE", "true")


def quiet_ultralytics() -> None:
    """Have it say warnings alone; imports it."""
    import logging

    quiet_environment()
    from ultralytics.utils import LOGGER

    LOGGER.setLevel(logging.WARNING)
