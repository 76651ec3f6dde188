"""Checkpoints of a training: files that are whole or not there."""
