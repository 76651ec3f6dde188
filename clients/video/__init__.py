"""Cameras, videos and folders, many at once: ``python -m clients stream``."""
