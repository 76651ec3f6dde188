"""Deployments for tests that write configurations."""

from __future__ import annotations

from collections.abc import Sequence

from builder.artifacts import Head, OnnxModel
from builder.deployment import Deployment
from builder.gpus import find_gpu
from builder.serving import CpuServing, GpuServing, ServingSettings

WORKSPACE_BYTES = 1 << 30


def deployment(
    model: OnnxModel,
    name: str = "shapes",
    *,
    head: Head = Head.DETECTIONS,
    gpus: Sequence[str] = ("t4",),
    settings: ServingSettings | None = None,
    cpu: CpuServing | None = None,
    classes: tuple[str, ...] = ("circle", "square"),
    plans: Sequence[str | None] = (),
    parameters: dict[str, str] | None = None,
) -> Deployment:
    """``settings`` on every GPU of ``gpus``, and on the CPU with one instance; ``plans`` gives each GPU its plan."""
    settings = settings or ServingSettings()
    on_cpu = ServingSettings(
        max_batch=settings.max_batch,
        instances=1,
        max_queue_size=settings.max_queue_size,
        queue_timeout_ms=settings.queue_timeout_ms,
        priority_levels=settings.priority_levels,
    )
    names = plans or [None] * len(gpus)
    return Deployment(
        name=name,
        model=model,
        head=head,
        classes=classes,
        cpu=cpu or CpuServing(settings=on_cpu),
        fleet=tuple(
            GpuServing(gpu=find_gpu(gpu), settings=settings, workspace_bytes=WORKSPACE_BYTES, plan=plan)
            for gpu, plan in zip(gpus, names, strict=True)
        ),
        parameters=parameters or {},
    )
