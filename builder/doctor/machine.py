"""Whether the driver and the GPUs are those that a release of Triton takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from builder.doctor.findings import Finding, fails, warning
from builder.gpus import LOWEST_COMPUTE_CAPABILITY, GpuTarget
from builder.releases import TritonRelease, parts, releases

FORWARD_COMPATIBILITY = "https://docs.nvidia.com/deploy/cuda-compatibility/forward-compatibility.html"

_CANCELS_SAFELY = "25.04"
"""From it on (2.57) with https://github.com/triton-inference-server/server/pull/8078. Seen with 24.10: 5 of 36 runs of
``python -m benchmarks clients``, whose requests were cancelled as they were answered, ended in
``ModelInferHandler::Process``."""


def check_release(release: TritonRelease) -> Iterator[Finding]:
    """Whether its gRPC endpoint outlives requests that are cancelled, as each is that a client's timeout ends."""
    if release.name < _CANCELS_SAFELY:
        what = "a gRPC request that is cancelled, or times out, just as it is answered can end the server by SIGSEGV"
        fix = f"serve with Triton {_CANCELS_SAFELY} or later; else have clients use HTTP, or timeouts that none meets"
        yield warning("grpc-cancellation", f"Triton {release.name}", what, fix)


def check_driver(release: TritonRelease, driver: str, gpus: Sequence[GpuTarget]) -> Iterator[Finding]:
    """Whether the driver is new enough for the release's CUDA.

    An older one may do on data-centre GPUs, by the compatibility package in the image; which ones is NVIDIA's to say.
    """
    if release.minimal_driver is None or parts(driver) >= parts(release.minimal_driver):
        return
    where, fix = f"driver {driver}", f"install driver {release.minimal_driver} or later, or an older release of Triton"
    what = f"Triton {release.name} is built on CUDA {release.cuda}, which needs driver {release.minimal_driver}"
    others = [gpu.name for gpu in gpus if not is_data_centre(gpu)]
    if others:
        yield fails("driver", where, f"{what}; no older one does for {', '.join(others)}", fix)
        return
    allowed = next((each for each in release.data_centre_drivers if _same_branch(driver, each)), None)
    if allowed and parts(driver) >= parts(allowed):
        what += f"; NVIDIA's notes of {release.name} allow {allowed} and later on data-centre GPUs"
        yield warning("driver", where, what, f"see {FORWARD_COMPATIBILITY} before you rely on it, or {fix}")
    else:
        what += f"; of older ones on data-centre GPUs the notes name {', '.join(release.data_centre_drivers) or 'none'}"
        yield fails("driver", where, what, f"{fix}; data-centre GPUs may have other ways: {FORWARD_COMPATIBILITY}")


def check_gpus(release: TritonRelease | None, gpus: Sequence[GpuTarget]) -> Iterator[Finding]:
    """Whether the release, or else any TensorRT of today, supports each GPU: not too old for it, and not too new."""
    lowest = ".".join(map(str, LOWEST_COMPUTE_CAPABILITY))
    floor = (release.gpu_floor if release else None) or lowest
    name = f"Triton {release.name}" if release and release.gpu_floor else "TensorRT"
    for gpu in gpus:
        if gpu.sm < parts(floor):
            what = f"compute capability {gpu.compute_capability}, and {name} supports {floor} and up"
            yield fails("gpu-floor", f"GPU {gpu.name}", what, "serve on another GPU, or with an older release")
        elif release is not None and release.takes(gpu.compute_capability) is False:
            gap = gpu.compute_capability in release.gpu_gaps
            knows = "does not support that one" if gap else f"supports none above {release.gpu_ceiling}"
            what = f"compute capability {gpu.compute_capability}, and Triton {release.name} {knows}"
            others = [each.name for each in releases().values() if each.takes(gpu.compute_capability)]
            fix = f"serve with Triton {_spans(others)}" if others else "serve on another GPU"
            yield fails("gpu-ceiling", f"GPU {gpu.name}", what, fix)


def is_data_centre(gpu: GpuTarget) -> bool:
    """Whether it is no GeForce or workstation board and no Jetson."""
    return not gpu.name.startswith(("rtx-", "jetson-"))


def _spans(names: Sequence[str]) -> str:
    """Releases in words: ``25.01 or later``, or the first and last of each row of months."""
    known = list(releases())
    rows: list[list[str]] = []
    for name in names:
        if rows and known.index(rows[-1][-1]) + 1 == known.index(name):
            rows[-1].append(name)
        else:
            rows.append([name])
    if len(rows) == 1 and rows[0][-1] == known[-1]:
        return f"{rows[0][0]} or later"
    return ", or ".join(row[0] if len(row) == 1 else f"{row[0]} to {row[-1]}" for row in rows)


def _same_branch(driver: str, other: str) -> bool:
    return parts(driver)[0] == parts(other)[0]
