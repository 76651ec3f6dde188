"""Measures what is built and served: ``python -m benchmarks --help``."""
