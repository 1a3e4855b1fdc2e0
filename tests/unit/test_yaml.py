"""Our YAML, read by another parser."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.to_yaml import yaml_lines


@pytest.mark.parametrize(
    "data",
    [
        {"a": 1, "b": "1", "c": True, "d": "yes", "e": None, "f": 0.5},
        {"a": {"b": {"c": [1, "2", {"d": "e"}]}}, "f": [[1], []], "g": {}, "h": []},
        {"memory.available": "5%", "with space": "x: y # z", "no": 1, "1": 2, "": 3},
        {"text": 'a "quoted" \\ text\nof two lines', "german": "Ärger"},
        {"list": [{"name": "n", "value": "v,w}"}, {"name": "on"}]},
    ],
)
def test_round_trip(data: dict[str, Any]) -> None:
    assert yaml.safe_load("\n".join(yaml_lines(data))) == data
