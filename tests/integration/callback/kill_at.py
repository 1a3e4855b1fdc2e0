"""Kills the whole run at its Nth task, like a controller that loses power.

Environment: KILL_AT (number of the task, from 1, or its name; 0: never), KILL_AFTER (seconds into it), KILL_COUNT (a file that gets the
number of tasks begun), KILL_MARKER (processes with this text in their environment are those of the run).
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kill_at
type: aggregate
short_description: Ends the run at its Nth task
description: For tests.
"""


def kill() -> None:
    """SIGKILL to every process of the run, this one last. Workers and connections have their own sessions."""
    marker = os.environ["KILL_MARKER"].encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        pid = int(environment.parent.name)
        with contextlib.suppress(OSError):
            if pid != os.getpid() and marker in environment.read_bytes():
                os.kill(pid, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


class CallbackModule(CallbackBase):
    """Counts tasks as they begin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill_at"

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0

    def v2_playbook_on_task_start(self, task: Any, **_kwargs: object) -> None:
        self.begun += 1
        Path(os.environ["KILL_COUNT"]).write_text(str(self.begun), encoding="utf-8")
        # The name of a task of a role begins with that of the role.
        if os.environ["KILL_AT"] in (str(self.begun), task.get_name().rsplit(" : ", 1)[-1]):
            delay = float(os.environ["KILL_AFTER"])
            if delay:
                timer = threading.Timer(delay, kill)
                timer.daemon = True
                timer.start()
            else:
                kill()
