"""``python -m builder gpus``: what is known of each GPU that a build can aim at."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from builder.gpus import LOWEST_COMPUTE_CAPABILITY, GpuTarget, find_gpu, known_gpus, mig_slices

COLUMNS = ("name", "CC", "memory GB", "GB/s", "FP16 TFLOPS", "INT8 TOPS", "PCIe", "W", "MIG")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The command's flags."""
    command.add_argument("--mig", action="store_true", help="list MIG slices too, as --gpu takes them")
    command.add_argument("--this-machine", action="store_true", help="only what --gpu auto would build for here")
    command.add_argument("--json", action="store_true", help="print them as JSON, MIG slices included")


def run(arguments: argparse.Namespace) -> int:
    """Print the table on stdout.

    Raises:
        SpecError: this machine's GPU was asked for and cannot be told.
    """
    gpus = (find_gpu("auto"),) if arguments.this_machine else tuple(known_gpus().values())
    if arguments.json:
        print(json.dumps([_plain(gpu) for gpu in gpus], indent=2))
        return 0
    print("\n".join(table(gpus, with_slices=arguments.mig)))
    return 0


def table(gpus: Sequence[GpuTarget], *, with_slices: bool = False) -> list[str]:
    """The lines of the table, its notes at the end."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for gpu in gpus:
        rows.append(_row(gpu, gpu.name))
        if with_slices:
            rows += [_row(each, name) for name, each in _slices(gpu).items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return [*lines, "", *_notes(gpus)]


def _notes(gpus: Sequence[GpuTarget]) -> list[str]:
    notes = ["Dense figures; -: no such thing, or not confirmed. MIG: the most slices it can be cut into."]
    if any(gpu.fp16_accumulation and gpu.fp16_tflops for gpu in gpus):
        notes.append("*: with FP16 accumulation; half of it with FP32 accumulation.")
    unsupported = [gpu.name for gpu in gpus if not gpu.supported]
    if unsupported:
        lowest = ".".join(map(str, LOWEST_COMPUTE_CAPABILITY))
        notes.append(f"TensorRT supports compute capability {lowest} and up: no build for {', '.join(unsupported)}.")
    return notes


def _row(gpu: GpuTarget, name: str) -> tuple[str, ...]:
    fp16 = _number(gpu.fp16_tflops) + ("*" if gpu.fp16_accumulation and gpu.fp16_tflops else "")
    return (
        name,
        gpu.compute_capability,
        _number(gpu.memory_gb),
        _number(gpu.bandwidth_gb_s),
        fp16,
        _number(gpu.int8_tops),
        _number(gpu.pcie_gen),
        _number(gpu.watts),
        _number(gpu.mig_instances),
    )


def _number(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1f}".removesuffix(".0")


def _slices(gpu: GpuTarget) -> dict[str, GpuTarget]:
    return {name: each for name, each in mig_slices().items() if each.slice_of == gpu.name}


def _plain(gpu: GpuTarget) -> dict[str, Any]:
    fits = {profile.name: profile.instances for profile in gpu.mig_profiles}
    slices = [
        {"gpu": name, **_figures(each), "mig_profile": each.mig_profile, "instances": fits[str(each.mig_profile)]}
        for name, each in _slices(gpu).items()
    ]
    name = f"{gpu.slice_of}:{gpu.mig_profile}" if gpu.slice_of else gpu.name
    return {
        "gpu": name,
        **_figures(gpu),
        "supported": gpu.supported,
        "mig_instances": gpu.mig_instances,
        "mig_slices": slices,
        "device_names": list(gpu.device_names),
    }


def _figures(gpu: GpuTarget) -> dict[str, Any]:
    return {
        "name": gpu.name,
        "compute_capability": gpu.compute_capability,
        "memory_gb": gpu.memory_gb,
        "bandwidth_gb_s": gpu.bandwidth_gb_s,
        "fp16_tflops": gpu.fp16_tflops,
        "fp16_tflops_accumulating_fp32": gpu.fp16_tflops_accumulating_fp32,
        "int8_tops": gpu.int8_tops,
        "pcie_gen": gpu.pcie_gen,
        "watts": gpu.watts,
    }
