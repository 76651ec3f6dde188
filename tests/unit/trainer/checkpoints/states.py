"""Small states of a training and what is known of them."""

from __future__ import annotations

from typing import Any

import torch

from trainer.checkpoints.file import CheckpointMeta


def meta_of(epoch: int, step: int, fitness: float | None = None, run: str = "shapes") -> CheckpointMeta:
    return CheckpointMeta(
        run=run,
        epoch=epoch,
        step=step,
        fitness=fitness,
        data_hash="d" * 64,
        model_hash="m" * 64,
        versions={"torch": str(torch.__version__)},
        arguments={"epochs": 3},
    )


def state_of(seed: int, values: int = 1000) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "seed": seed,
        "model": {"weight": torch.randn(values, generator=generator), "count": torch.tensor(3)},
        "rows": [{"epoch": 1.0, "loss": 0.5}],
        "scaler": {},
        "fitness": None,
    }
