"""``python -m tests.gpu.onnxruntime_session PROVIDER GRAPH IMAGES OUTPUT``: run a graph by one GPU provider."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tests.gpu.running import NOT_LOADED


def main(provider: str, graph: Path, images: Path, output: Path) -> int:
    """0, or NOT_LOADED with the reason on stdout where onnxruntime falls back to the CPU."""
    options = ort.SessionOptions()
    # Nodes that it puts on the CPU of its own accord are small; the network itself must not be there.
    options.log_severity_level = 3
    # The TensorRT provider leaves to CUDA what TensorRT does not take.
    wanted = [provider] if provider == "CUDAExecutionProvider" else [provider, "CUDAExecutionProvider"]
    # It prints what it cannot load.
    with contextlib.redirect_stdout(sys.stderr):
        session = ort.InferenceSession(str(graph), options, providers=wanted)
    if provider not in session.get_providers():
        print(why_not(provider))
        return NOT_LOADED
    (found,) = session.run(None, {session.get_inputs()[0].name: np.load(images)})[:1]
    np.save(output, found)
    return 0


def why_not(provider: str) -> str:
    """The library that cannot be found, as the loader names it."""
    short = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt"}[provider]
    folder = Path(ort.__file__).parent / "capi"
    try:
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / f"libonnxruntime_providers_{short}.so"))
    except OSError as e:
        return re.sub(r".*/", "", str(e))
    return f"onnxruntime {ort.__version__} takes the CPU instead"


if __name__ == "__main__":
    # Before the session: it looks for CUDA's libraries among the installed packages.
    with contextlib.redirect_stdout(sys.stderr):
        ort.preload_dlls()
    sys.exit(main(sys.argv[1], *map(Path, sys.argv[2:5])))
