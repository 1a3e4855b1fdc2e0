# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""YAML that a person can read, written without a library: hosts need not have one."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
# A plain key that other parsers take for a truth value or null.
_NO_PLAIN_KEY = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


def yaml_lines(node: Mapping[str, Any], indent: str = "") -> list[str]:
    """A mapping of plain data as lines. Texts are JSON strings, which are YAML; mappings in lists stand on one line."""
    lines = []
    for key, value in node.items():
        name = f"{indent}{_key(key)}:"
        if isinstance(value, Mapping) and value:
            lines.extend([name, *yaml_lines(value, indent + "  ")])
        elif isinstance(value, list) and value:
            lines.append(name)
            lines.extend(f"{indent}- {_flow(item)}" for item in value)
        else:
            lines.append(f"{name} {_flow(value)}")
    return lines


def _key(key: object) -> str:
    text = str(key)
    plain = _PLAIN_KEY.fullmatch(text) and text.lower() not in _NO_PLAIN_KEY
    return text if plain else json.dumps(text, ensure_ascii=False)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
