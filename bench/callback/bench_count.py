# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Counts what a run does: tasks, module runs and changes by host, and the controller's peak memory."""

from __future__ import annotations

DOCUMENTATION = """
name: bench_count
type: aggregate
short_description: Count module runs for the bench
description: Writes counts as JSON to the file that the environment variable BENCH_COUNT_FILE names.
"""

import json
import os
import resource
from collections import Counter
from typing import Any

from ansible.plugins.callback import CallbackBase

# These never leave the controller.
LOCAL = (
    *("set_fact", "debug", "fail", "assert", "include_tasks", "include_role", "validate_argument_spec", "meta"),
    *("etcd_plan", "etcd_show", "etcd_fail"),
)


class CallbackModule(CallbackBase):
    """See the module's docstring."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "bench_count"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.tasks: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()

    def v2_runner_on_ok(self, result: Any) -> None:
        """One task on one host."""
        host, data = result._host.get_name(), result._result
        self.tasks[host] += 1
        if result._task.action.rsplit(".", 1)[-1] not in LOCAL:
            self.runs[host] += len(data.get("results", [0]))
        if data.get("changed"):
            self.changed[host] += 1

    def v2_runner_on_skipped(self, result: Any) -> None:
        """A task that a host skips costs the controller nearly as much."""
        self.tasks[result._host.get_name()] += 1

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002  Ansible's signature
        """The end of the run."""
        # The largest single process: the main one, or one of the workers that it forks.
        peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        counts = {
            "tasks": dict(self.tasks),
            "module_runs": dict(self.runs),
            "changed": dict(self.changed),
            "peak_memory_mib": round(peak / 1024),
        }
        with open(os.environ["BENCH_COUNT_FILE"], "w", encoding="utf-8") as stream:
            json.dump(counts, stream)
