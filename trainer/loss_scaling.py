"""W processes learn what one would from the same global batch.

Ultralytics' criterion divides box, class and distance losses by the sum of the assigned scores of its batch (at least
1) and multiplies by the batch's images. DistributedDataParallel takes the mean of the gradients. So for W processes
with local loss L_r, score sum S_r and B_r images each is scaled to

    L_r * (max(S_r, 1) / max(sum S, 1)) * (sum B / B_r) * W

whose mean over the processes is the loss of the global batch. An end-to-end head has two criteria, each with its own
sum. What is reported is that loss, the same in every process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from trainer.distribution import Group

Items = dict[str, torch.Tensor]


def scale_criterion(criterion: Any, group: Group) -> None:
    """Have a criterion of Ultralytics' compute the loss of the global batch."""
    for part in heads_of(criterion).values():
        recorded = _Recorded()
        part.assigner.register_forward_hook(recorded)
        part.loss = _scaled(part.loss, recorded, group)


def heads_of(criterion: Any) -> dict[str, Any]:
    """The criteria of a network's heads; ``one2many`` alone but for an end-to-end one."""
    heads = {name: getattr(criterion, name) for name in ("one2many", "one2one") if hasattr(criterion, name)}
    return heads or {"one2many": criterion}


class _Recorded:
    """The sum of the scores that an assigner has just given."""

    def __init__(self) -> None:
        self.scores_sum: torch.Tensor | None = None

    def __call__(self, module: object, inputs: object, outputs: Any) -> None:
        self.scores_sum = outputs[2].sum().float()


def _scaled(
    loss: Callable[..., tuple[torch.Tensor, Items]], recorded: _Recorded, group: Group
) -> Callable[..., tuple[torch.Tensor, Items]]:
    def of_the_global_batch(predictions: dict[str, torch.Tensor], batch: Any) -> tuple[torch.Tensor, Items]:
        local, items = loss(predictions, batch)
        assert recorded.scores_sum is not None, "the criterion has called its assigner"
        images = predictions["boxes"].shape[0]
        own = recorded.scores_sum.clamp(min=1)
        names = list(items)
        sums = torch.stack([recorded.scores_sum, own.new_tensor(images), *(items[n].float() * own for n in names)])
        sums = group.add(sums.detach())
        total = sums[0].clamp(min=1)
        share = (own / total) * (sums[1] / images) * group.process.world
        return local * share, dict(zip(names, (sums[2:] / total).unbind(), strict=True))

    return of_the_global_batch
