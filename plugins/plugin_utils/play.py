# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What action plugins read of a play: variables, hosts, files of the controller. And how they print."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import CONNECTION

_SPECS = Path(__file__).resolve().parents[2] / "roles" / "etcd" / "meta" / "argument_specs.yml"

# What C(ansible-playbook) prints for programs. A line of text would break it.
_FOR_PROGRAMS = ("json", "jsonl", "null")


@cache
def variable_options() -> dict[str, Any]:
    """The etcd_* variables that exist, as the role etcd describes them."""
    with _SPECS.open(encoding="utf-8") as stream:
        found = yaml.load(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  A safe loader, in C.
    return dict(found["argument_specs"]["observe"]["options"])


def shows() -> bool:
    """Whether text can be printed: not if the callback prints for programs. For them it is in the result."""
    name = str(constants.config.get_config_value("DEFAULT_STDOUT_CALLBACK"))
    return name.rsplit(".", 1)[-1] not in _FOR_PROGRAMS


def show(lines: Iterable[str], color: str | None = None) -> None:
    """Print text as it is, if it can be printed. color: a setting of Ansible's."""
    text = "\n".join(lines)
    if text and shows():
        Display().display(text, color=color and constants.config.get_config_value(color))


def run_or_warn(action: Any, variables: dict[str, Any] | None, text: str, nothing: Mapping[str, Any]) -> dict[str, Any]:
    """Run the module of an action on its host, and show its warning. A host that cannot be reached is one (text), and has the result `nothing`."""
    try:
        result: dict[str, Any] = action._execute_module(module_args=action._task.args, task_vars=variables or {})
    except AnsibleConnectionFailure as exc:
        result = {"changed": False, **nothing, "warning": f"this host cannot be reached, so {text}: {exc}"}
    if result.get("warning"):
        show([f"WARNING: {action._task.args.get('name')}: {result['warning']}"], "COLOR_WARN")
    return result


def failure(text: str) -> dict[str, Any]:
    """The result of a task that fails with a message for people, which is printed as it is."""
    first, *more = text.splitlines()
    if not more or not shows():
        return {"failed": True, "changed": False, "msg": text}
    show([text], "COLOR_ERROR")
    return {"failed": True, "changed": False, "msg": f"{first.rstrip(':.')}: see the text above."}


def plain(value: Any) -> Any:
    """A value as plain containers: what Ansible templates lazily is not copied, compared or merged."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    # Text of an inventory that ansible-vault has encrypted, up to ansible-core 2.18.
    return str(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else value


def read_once(hostvars: Any, hosts: Iterable[str]) -> dict[str, Any]:
    """hostvars of some hosts. Ansible puts together all variables of a host anew each time that hostvars is asked for it."""
    return {host: hostvars[host] for host in hosts}


def inventory_variables(variables: Any) -> dict[str, Any]:
    """What the inventory says of a host, as far as it matters here. variables: its hostvars."""
    return {key: variables[key] for key in variables if key.startswith("etcd_") or key in CONNECTION}


def controller_path(path: str) -> str:
    """A file on the controller. A relative path begins where the command was given."""
    return os.path.join(os.environ.get("PWD", ""), os.path.expanduser(path)) if path else ""


def file_text(path: str, loader: Any, templar: Any, variables: Mapping[str, Any]) -> str:
    """The text of a file on the controller, decrypted if ansible-vault has encrypted it; empty if it cannot be read."""
    if not path:
        return ""
    try:
        found = lookup_loader.get("ansible.builtin.file", loader=loader, templar=templar).run(
            [path], variables=variables
        )
    except AnsibleError:
        return ""
    return str(found[0]) if found else ""
