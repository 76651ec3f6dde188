"""From YOLO weights to a Triton model repository: ``python -m builder build``."""
