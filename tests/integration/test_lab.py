"""The lab itself: what happens to it that podman does not expect."""

from __future__ import annotations

import os
import signal
import subprocess

from .conftest import Lab


def test_hosts_that_were_killed_together_with_podman(lab: Lab) -> None:
    """As when a session ends with all that it left running. The next `lab up` brings the lab back, and says how."""
    name = f"{lab.name}-infra2"
    pids = subprocess.run(
        ["podman", "inspect", name, "--format", "{{.State.ConmonPid}} {{.State.Pid}}"],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    assert "killed" in lab("status")
    lab("up", "--hosts", "3")
    assert "killed" not in lab("status")
    # Nothing of a cluster is on it, as on a new host.
    assert lab.sh("infra2", "ls /etc/kubernetes 2>&1 || true").strip().endswith("No such file or directory")
    lab.fresh()
