"""The Python-backend models that are copied into a model version and served by Triton."""

from pathlib import Path


def openvino_model_path() -> Path:
    """The source of the detector on OpenVINO's CPU plugin; a version holds it as ``model.py``."""
    return Path(__file__).parent / "openvino_model.py"
