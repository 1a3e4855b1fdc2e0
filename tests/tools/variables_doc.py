# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes docs/variables.md and roles/etcd/defaults/main.yml, made of what the roles' argument specs say.

usage: python tests/tools/variables_doc.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".collections"))

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.variables import VARIABLES  # noqa: E402

HEAD = """\
# Variables

Every variable of the collection. Set them for the group, or for a host where that makes sense; each has one default.
A misspelt name or a value of the wrong type stops a run before anything is changed.

<!-- Written by `make docs` from roles/*/meta/argument_specs.yml and plugins/module_utils/_control/variables.py: change it there. -->

Scope: a *host* may have a value of its own; the members of a *cluster* share one; a *run* has one, usually from the command line (`-e`); *controller*:
files and groups that Ansible itself uses.

| variable | scope | type | default | meaning |
| --- | --- | --- | --- | --- |
"""


def specs(role: str) -> dict[str, Any]:
    """Options of a role, by name."""
    text = (ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    (entry_point,) = yaml.safe_load(text)["argument_specs"].values()
    return dict(entry_point.get("options") or {})


def row(name: str, option: dict[str, Any]) -> str:
    """One line of the table."""
    kind = f"{option['type']} of {option['elements']}" if "elements" in option else option["type"]
    default = option["default"] if isinstance(option["default"], str) else json.dumps(option["default"])
    description = option["description"]
    text = " ".join([description] if isinstance(description, str) else description)
    if "choices" in option:
        text += " One of " + ", ".join(f"`{choice}`" for choice in option["choices"] if choice) + "."
    cells = [f"`{name}`", VARIABLES[name].scope, kind, f"`{default}`" if default else "empty", text]
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n"


def document() -> str:
    """The whole of docs/variables.md."""
    roles = sorted(path.parent.parent.name for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
    return HEAD + "".join(row(name, option) for role in roles for name, option in specs(role).items())


def defaults() -> str:
    """The whole of roles/etcd/defaults/main.yml."""
    lines = [f"{name}: {json.dumps(option['default'])}\n" for name, option in specs("etcd").items()]
    return "---\n# Written by `make docs` from meta/argument_specs.yml: change it there.\n" + "".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "variables.md").write_text(document(), encoding="utf-8")
    (ROOT / "roles" / "etcd" / "defaults" / "main.yml").write_text(defaults(), encoding="utf-8")
