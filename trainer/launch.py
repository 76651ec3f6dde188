"""``--devices 0,1`` without torchrun: the same command in a process per device, by torchrun's own agent."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from builder.durable import scratch_folder, sweep
from builder.signals import Interrupted, interrupted_by

RUN_ID = "trainer"
"""What torch tells the processes that this started, beside what they are."""
_LAUNCHER = "TRAINER_LAUNCHER"
"""Of the environment: the process that has started this one for a device."""
_FOLDER = "trainer-"
_SLACK_S = 15
"""What the processes have beyond their own grace before they are killed."""


def launch(argv: Sequence[str], *, processes: int, max_restarts: int, grace_s: float) -> int:
    """Run ``python -m trainer ARGV`` in ``processes`` processes; their exit code.

    Raises:
        Interrupted: a signal came; it was passed on, and the processes have left.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its warnings name the processes that a signal was passed on to, and its errors repeat what they have said.
    logging.disable(logging.ERROR)
    parent = Path(tempfile.gettempdir())
    sweep(parent, _FOLDER)
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        # torch makes a folder for logs though none are asked for, and leaves it; it listens for signals only once it
        # starts processes, and never stops to.
        with (
            interrupted_by(signal.SIGTERM, signal.SIGINT) as interruption,
            scratch_folder(parent, _FOLDER) as folder,
        ):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                run_id=RUN_ID,
                max_restarts=max_restarts,
                rdzv_backend="c10d",
                rdzv_endpoint="127.0.0.1:0",
                local_addr="127.0.0.1",
                shutdown_timeout=int(grace_s) + _SLACK_S,
                signals_to_handle="SIGTERM,SIGINT",
                logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
            )
            interruption.check()
            elastic_launch(config, sys.executable)("-m", "trainer", *argv)
            interruption.check()
    except SignalException as e:
        raise Interrupted(int(e.sigval)) from e
    except ChildFailedError as e:
        code = e.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    finally:
        del os.environ[_LAUNCHER]
    return 0


def asked_by_its_end() -> int:
    """SIGTERM where ``launch`` has started this process and is gone: nobody else can ask it to leave, or keeps others
    out of its folder."""
    launcher = os.environ.get(_LAUNCHER)
    return signal.SIGTERM if launcher and os.getppid() != int(launcher) else 0
