"""What the trainer raises for its users; the command line prints it as one line.

BuilderError
└── TrainingError        a training cannot begin, go on or end
    ├── PeerLostError    another process of it is gone
    └── CheckpointError  a checkpoint cannot be written, read, or is not this run's
        ├── StoreError   a store of checkpoints cannot be reached, or refuses
        └── SealError    what is encrypted does not open with the key that is given
"""

from __future__ import annotations

from builder.errors import BuilderError


class TrainingError(BuilderError):
    """A training cannot begin, go on or end; exit code 1."""


class PeerLostError(TrainingError):
    """Another process of the training is gone; exit code 1."""


class CheckpointError(TrainingError):
    """A checkpoint cannot be written or read, or belongs to another run, model or data set; exit code 1."""


class StoreError(CheckpointError):
    """A store of checkpoints cannot be reached, or refuses; exit code 1."""


class SealError(CheckpointError):
    """What is encrypted does not open: no key, another key, or the content was changed; exit code 1."""
