"""``python -m benchmarks peers``: this project beside others on one machine: same pictures, same boxes, in turns."""
