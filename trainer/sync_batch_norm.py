"""Batch norm over the global batch on CPUs, where torch's SyncBatchNorm does not run.

Forward each process sends its count, mean and sum of squared deviations per channel; they are put together by Chan,
Golub and LeVeque's formula (1979), which does not subtract large sums. Backward two sums per channel travel.

Legend: N images, C channels.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional


class Waited:
    """The time that this process has waited for the others' statistics: several hundred small exchanges a step."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._seconds = 0.0

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Count what is done within."""
        began_s = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - began_s

    def taken(self) -> float:
        """Seconds since this was asked last."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


WAITED = Waited()


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917
        ctx: Any, images_NCHW: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, group: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        channels, dtype = images_NCHW.shape[1], images_NCHW.dtype
        count = images_NCHW.numel() / channels
        variance, mean = torch.var_mean(images_NCHW, dim=(0, 2, 3), correction=0)
        own = torch.stack([torch.full_like(mean, count), mean, variance * count]).double()
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        with WAITED.measured():
            dist.all_gather(parts, own, group=group)
        counts, means, deviations = torch.stack(parts).unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        variance = (deviations.sum(0) + (counts * (means - mean) ** 2).sum(0)) / total
        # The same kernel as one process runs, so that both round alike.
        output_NCHW = functional.batch_norm(images_NCHW, mean.to(dtype), variance.to(dtype), weight, bias, eps=eps)
        ctx.save_for_backward(images_NCHW, weight, mean.to(dtype), torch.rsqrt(variance + eps).to(dtype), total)
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance, total)
        return output_NCHW, mean, variance, total

    @staticmethod
    def backward(ctx: Any, gradient_NCHW: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        images_NCHW, weight, mean, scale, total = ctx.saved_tensors
        normal_NCHW = (images_NCHW - _per_channel(mean)) * _per_channel(scale)
        bias_gradient = gradient_NCHW.sum(dim=(0, 2, 3))
        weight_gradient = (gradient_NCHW * normal_NCHW).sum(dim=(0, 2, 3))
        sums = torch.stack([bias_gradient, weight_gradient]).double()
        with WAITED.measured():
            dist.all_reduce(sums, group=ctx.group)
        means = (sums / total).to(gradient_NCHW.dtype)
        images_gradient = (
            (gradient_NCHW - _per_channel(means[0]) - normal_NCHW * _per_channel(means[1]))
            * _per_channel(scale * weight)
        )  # fmt: skip
        return images_gradient, weight_gradient, bias_gradient, None, None


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose training statistics are those of all processes together."""

    group: Any = None

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Normalize [N, C, H, W]; in evaluation mode as nn.BatchNorm2d."""
        if not self.training:
            return super().forward(images_NCHW)
        output, mean, variance, total = _Normalize.apply(images_NCHW, self.weight, self.bias, self.eps, self.group)
        assert self.running_mean is not None, "Ultralytics' batch norm tracks its statistics"
        assert self.running_var is not None, "Ultralytics' batch norm tracks its statistics"
        assert self.num_batches_tracked is not None, "Ultralytics' batch norm tracks its statistics"
        assert self.momentum is not None, "Ultralytics sets a momentum"
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_((variance * total / (total - 1)).to(self.running_var.dtype), self.momentum)
        result: torch.Tensor = output
        return result


def synchronized(model: nn.Module, group: Any, device: torch.device) -> nn.Module:
    """Replace every batch norm; parameters and buffers stay the same tensors, so that an optimizer keeps them."""
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return converted
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _converted(child, group))
    return model


def _converted(layer: nn.BatchNorm2d, group: Any) -> GlobalBatchNorm2d:
    new = GlobalBatchNorm2d(layer.num_features, eps=layer.eps, momentum=layer.momentum)
    new.weight, new.bias = layer.weight, layer.bias
    new.running_mean, new.running_var = layer.running_mean, layer.running_var
    new.num_batches_tracked = layer.num_batches_tracked
    new.train(layer.training)
    new.group = group
    return new


def _per_channel(values_C: torch.Tensor) -> torch.Tensor:
    return values_C[None, :, None, None]
