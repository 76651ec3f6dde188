"""Roboflow's inference server on a port of the loopback, offline: run by the Python of an environment that has it.

``FILE/python roboflow_server.py PORT FOLDER``; it ends with its standard input.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

SETTINGS = {
    # The weights lie here: nothing is asked of Roboflow's service.
    "OFFLINE_MODE": "True",
    "ALLOW_INFERENCE_MODELS_DIRECTLY_ACCESS_LOCAL_PACKAGES": "True",
    "ONNXRUNTIME_EXECUTION_PROVIDERS": "[CPUExecutionProvider]",
    "CORE_MODELS_ENABLED": "False",
    "TELEMETRY_OPT_OUT": "True",
    "DISABLE_VERSION_CHECK": "True",
    "METRICS_ENABLED": "False",
    "ENABLE_BUILDER": "False",
    "LOG_LEVEL": "ERROR",
}


def main() -> None:
    """Serve until standard input ends."""
    port, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ.update(SETTINGS, MODEL_CACHE_DIR=str(folder / "cache"))
    # The wheel lacks the pages that the container has, and the server does not start without their folders.
    for pages in ("static", "_next/static"):
        (folder / "inference" / "landing" / "out" / pages).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)

    import uvicorn  # type: ignore[import-not-found]
    from inference.core.interfaces.http.http_api import HttpInterface  # type: ignore[import-not-found]
    from inference.core.managers.base import ModelManager  # type: ignore[import-not-found]
    from inference.core.registries.roboflow import RoboflowModelRegistry  # type: ignore[import-not-found]
    from inference.models.utils import ROBOFLOW_MODEL_TYPES  # type: ignore[import-not-found]

    registry = RoboflowModelRegistry(ROBOFLOW_MODEL_TYPES)
    threading.Thread(target=_end_with_input, daemon=True).start()
    uvicorn.run(
        HttpInterface(ModelManager(model_registry=registry)).app, host="127.0.0.1", port=port, log_level="error"
    )


def _end_with_input() -> None:
    sys.stdin.read()
    # Threads of the server's would keep the process.
    os._exit(0)


if __name__ == "__main__":
    main()
