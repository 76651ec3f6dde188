"""What a second worker gains a training, and what eight and 64 would: ``python -m benchmarks scaling``."""
