"""What a host says of itself, as far as it can be made up."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils import _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._errors import EtcdError

TABLE = "header\n 0: 0100007F:094D 00000000:0000 0A 0 0 0 0 0 11\n 1: 0600000A:094D 00000000:0000 0A 0 0 0 0 0 22\n"


@pytest.mark.parametrize("order", [["11", "22"], ["22", "11"]])
def test_of_two_listeners_on_one_port_the_stranger_is_told(order: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The member at the loopback address, another program at the address where metrics are to be opened."""
    links = {f"/proc/{inode}/fd/3": f"socket:[{inode}]" for inode in order}
    programs = {11: ["/usr/local/bin/etcd", "--name=infra0"], 22: ["/usr/bin/haproxy"]}

    def read_text(path: str) -> str:
        return TABLE if path.endswith("tcp") else ""

    def readlink(path: str) -> Any:
        return links[path]

    monkeypatch.setattr(_host, "read_text", read_text)
    monkeypatch.setattr(_host.glob, "glob", lambda *_pattern: list(links))
    monkeypatch.setattr(_host.os, "readlink", readlink)
    monkeypatch.setattr(_host, "process_argv", lambda pid: programs[pid])
    assert _host.listeners([2381])["2381"] == {"pid": 22, "program": "haproxy", "argv": ["/usr/bin/haproxy"]}
    assert _host.listeners([2379]) == {}
    programs[22] = ["/usr/local/bin/etcd", "--name=infra0"]
    assert _host.listeners([2381])["2381"]["program"] == "etcd"


def test_a_process_that_ends_while_it_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading its stat says ESRCH, if it was there to be opened."""

    def read_text(path: str) -> str:
        raise EtcdError(f"{path} cannot be read: No such process.")

    monkeypatch.setattr(_host, "read_text", read_text)
    assert _host.process_started(os.getpid()) == 0.0
