"""Finds the configuration that serves the most images within a latency limit, from few measurements and a model."""
