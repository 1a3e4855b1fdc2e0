"""The lab itself, in states that podman does not handle."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from .conftest import LAB_NAME, Lab


@pytest.fixture
def one_host() -> Iterator[Lab]:
    """A lab of its own, of one host."""
    it = Lab(f"{LAB_NAME}-killed", ["infra0"])
    it("up", "--hosts", "1", "--no-images")
    yield it
    it("down")


@pytest.mark.parametrize("subcommand", [["up", "--hosts", "1", "--no-images"], ["wipe", "--all"]])
def test_hosts_that_were_killed_together_with_podman(one_host: Lab, subcommand: list[str]) -> None:
    """As at the end of a session. `up` makes the hosts new."""
    lab = one_host
    lab.sh("infra0", "mkdir /etc/kubernetes")
    pids = subprocess.run(
        ["podman", "inspect", f"{lab.name}-infra0", "--format", "{{.State.ConmonPid}} {{.State.Pid}}"],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    # The monitor first, so that it does not report the end to podman.
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    assert "killed" in lab("status")
    lab(*subcommand)
    assert "killed" not in lab("status")
    assert lab.sh("infra0", "test -e /etc/kubernetes || echo new").strip() == "new"
