"""One worker in a process of its own, which answers a request a line with a line, until its input ends.

``python -m benchmarks.scaling.worker JSON``
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, TextIO

from builder.errors import BuilderError


def main() -> int:
    """Answer until there is nothing more to read."""
    # What libraries print on stdout is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    spec = json.loads(sys.argv[1])
    try:
        _work(spec, answers)
    except BuilderError as e:
        _say(answers, {"error": str(e), "exit_code": e.exit_code})
        return e.exit_code
    return 0


def _work(spec: dict[str, Any], answers: TextIO) -> None:
    os.environ.setdefault("YOLO_OFFLINE", "true")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch.distributed as dist

    from trainer.distribution import Devices, Process

    rank, world = spec["rank"], spec["world"]
    devices = Devices(kind=spec["kind"], indexes=tuple(spec["indexes"]))
    if world > 1:
        backend = "nccl" if devices.kind == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{spec['meeting']}", rank=rank, world_size=world)
    # Ultralytics reads the rank when it is imported.
    from benchmarks.scaling.training import MeasuredTraining

    process = Process(rank=rank, local_rank=rank, world=world, local_world=world)
    training = MeasuredTraining(spec, process, devices)
    _say(answers, {"result": training.facts()})
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        _say(answers, {"result": getattr(training, name)(**request)})


def _say(answers: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    # Threads of gloo and NCCL would be waited for.
    code = main()
    sys.stderr.flush()
    os._exit(code)
