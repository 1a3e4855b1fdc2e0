"""Operations: each has a name, a plan, a playbook and a place in the documentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import HAND_OVER, KINDS, REPORT
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.wish import VARIABLES, Wish
from ansible_collections.kubeadm.etcd.plugins.module_utils._operations.run import OPERATIONS, plan_run
from test_restore import seen as observed
from test_run import ALL_UP
from test_seams import seen

ROOT = Path(__file__).resolve().parents[2]
SPECS = yaml.safe_load((ROOT / "roles/etcd/meta/argument_specs.yml").read_text(encoding="utf-8"))
OPTIONS: dict[str, Any] = SPECS["argument_specs"]["observe"]["options"]


def test_every_operation_can_be_asked_for() -> None:
    assert {*OPTIONS["etcd_operation"]["choices"]} == {*OPERATIONS} - {REPORT}


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != REPORT])
def test_every_operation_has_a_playbook(operation: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "playbooks").glob("*.yml")]
    assert any(f"etcd_operation: {operation}\n" in text for text in texts)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_plan_has_what_the_roles_read(operation: str) -> None:
    """The hosts of each kind of step and the host that prints, even if the run is refused."""
    plan = plan_run("infra0", seen(observed(*ALL_UP)), [], Wish(operation=operation))
    read = {
        *KINDS,
        "steps",
        "settled",
        "order",
        "departs",
        "action",
        "members",
        "lines",
        "speaker",
        "problems",
        "held",
        "notices",
    }
    assert read <= {*plan} and (plan["speaker"] == "infra0") is (operation != HAND_OVER)


def test_a_wish_is_made_of_variables() -> None:
    """The default of each field of a wish asks for nothing."""
    assert {*VARIABLES.values()} <= {*OPTIONS}
    types = {"str": str, "path": str, "bool": bool, "int": int}
    for field, variable in VARIABLES.items():
        default, kind = getattr(Wish, field), types[OPTIONS[variable]["type"]]
        # A truth value is a number, too.
        assert isinstance(default, kind) and isinstance(default, bool) == (kind is bool), variable
