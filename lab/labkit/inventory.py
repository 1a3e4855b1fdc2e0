"""The Ansible inventory of a lab."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def ssh_options(known_hosts: Path) -> list[str]:
    """Options that make ssh check a host against the keys that the lab recorded, and nothing else."""
    return [
        *("-o", f"UserKnownHostsFile={known_hosts}"),
        *("-o", "GlobalKnownHostsFile=/dev/null"),
        *("-o", "StrictHostKeyChecking=yes"),
        *("-o", "IdentitiesOnly=yes"),
    ]


def render_inventory(lab: str, hosts: Sequence[tuple[str, str]], key: Path, known_hosts: Path) -> str:
    """The inventory of a lab as YAML: `hosts` are (name, address). JSON strings are YAML strings."""
    variables: Mapping[str, str] = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": " ".join(ssh_options(known_hosts)),
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    lines = [
        f"# The lab {lab!r}, written by lab/lab: `up`, `add` and `wipe` write it again.",
        "---",
        "etcd:",
        "  hosts:",
    ]
    for name, address in hosts:
        lines += [f"    {name}:", f"      ansible_host: {json.dumps(address)}"]
    lines += ["  vars:", *(f"    {name}: {json.dumps(value)}" for name, value in variables.items())]
    return "\n".join(lines) + "\n"


def render_known_hosts(hosts: Sequence[tuple[str, str, str]]) -> str:
    """A known_hosts file: `hosts` are (name, address, public key); a host is known by both, whichever is dialled."""
    return "".join(f"{name},{address} {' '.join(public.split()[:2])}\n" for name, address, public in hosts)
