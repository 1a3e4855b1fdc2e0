# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which stages a run has, and which steps of a plan they carry out. A stage is a role that changes something."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import (
    CA,
    CERTIFICATES,
    KUBELET,
    RECORD,
    REMOVE_CA_KEY,
    REPLACE_CA,
    SCHEDULE,
    START,
    TURN,
    Step,
)

# The stages of site.yml, in their order, and the tag of each.
TAGS = {
    "kubelet": "kubelet",
    "ca": "certificates",
    "certificates": "certificates",
    "static_pod": "static_pod",
    "backup": "backup",
    "health": "health",
}
STAGES = tuple(TAGS)

# The stages that carry out steps of a kind. All other kinds are those of static_pod.
_CARRIED_OUT_BY = {
    # The turn of a member that joins starts its kubelet as well.
    KUBELET: ("kubelet", "static_pod"),
    CA: ("ca",),
    REPLACE_CA: ("certificates",),
    REMOVE_CA_KEY: ("certificates",),
    CERTIFICATES: ("certificates",),
    SCHEDULE: ("backup",),
    RECORD: ("health",),
}


def is_selected(tags: Iterable[str], run_tags: Iterable[str], skip_tags: Iterable[str]) -> bool:
    """Whether Ansible runs tasks with these tags. run_tags, skip_tags: the values of --tags and --skip-tags."""
    own, run, skip = {*tags} or {"untagged"}, {*run_tags}, {*skip_tags}
    general = {"all", *(() if "untagged" in own else ("tagged",))}
    if not ("always" in own or own & run or ("never" not in own and general & run)):
        return False
    # Ansible looks at no other tag then.
    if "all" in skip:
        return "always" in own and "always" not in skip
    return not (own & skip or general & skip)


def stages_by_tags(run_tags: Iterable[str], skip_tags: Iterable[str]) -> tuple[str, ...]:
    """The stages of a run of site.yml."""
    run, skip = [*run_tags], [*skip_tags]
    return tuple(stage for stage, tag in TAGS.items() if is_selected([tag], run, skip))


def stages_by_roles(roles: Iterable[str], selected: Iterable[str]) -> tuple[str, ...]:
    """The stages of a play that has roles of its own choice. roles: all of the play. selected: those of them that the tags select.

    All stages if none of the roles is a stage: it is not known what follows.
    """
    own, run = ([role.rsplit(".", 1)[-1] for role in named] for named in (roles, selected))
    if not any(role in TAGS for role in own):
        return STAGES
    return tuple(stage for stage in STAGES if stage in run)


def carried_out(steps: Iterable[Step], stages: Iterable[str]) -> list[Step]:
    """Steps as far as these stages carry them out. Without the stage static_pod, the stage kubelet changes the kubelets of members."""
    there = {*stages}
    found = []
    for step in steps:
        kubelet = tuple(reason for reason in step.reasons if reason.part == "kubelet")
        if there & {*_stages_of(step)}:
            found.append(step)
        elif "kubelet" in there and step.kind in (START, TURN) and kubelet:
            found.append(replace(step, reasons=kubelet))
    return found


def left_out(steps: Iterable[Step], stages: Iterable[str]) -> dict[str, list[str]]:
    """The stages that these stages leave steps to, with the hosts of those.

    Without a reason, certificates are only looked at, and a record follows from another step.
    """
    there = {*stages}
    left: dict[str, list[str]] = {}
    for step in steps:
        whole = _stages_of(step)
        is_kubelet = step.kind in (START, TURN) and step.reasons and {r.part for r in step.reasons} == {"kubelet"}
        is_due = step.reasons or "static_pod" in whole
        if is_due and not there & {*whole} and not ("kubelet" in there and is_kubelet):
            hosts = left.setdefault(whole[0], [])
            if step.host not in hosts:
                hosts.append(step.host)
    return {stage: left[stage] for stage in STAGES if stage in left}


def _stages_of(step: Step) -> tuple[str, ...]:
    return _CARRIED_OUT_BY.get(step.kind, ("static_pod",))
