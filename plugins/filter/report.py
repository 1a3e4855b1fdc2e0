# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The report on the clusters of a run. A thin layer over _control/report.py."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report
short_description: The report on all etcd clusters of a run
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Puts together what M(kubeadm.etcd.etcd_health) and M(kubeadm.etcd.etcd_host_info) saw in a run, cluster by cluster. Hosts that
    the run could not reach are named, and their members told of as the others see them.
positional: group, hosts, all_hosts, options
options:
  _input:
    description: The variable C(hostvars). Observations are in C(__etcd_host), the health of a cluster in C(__report_health).
    type: dict
    required: true
  group:
    description: Hosts that may be members, in inventory order.
    type: list
    elements: str
    required: true
  hosts:
    description: Hosts that are still part of the run.
    type: list
    elements: str
    required: true
  all_hosts:
    description: Hosts that the run began with. Clusters without any of them are left out.
    type: list
    elements: str
    required: true
  options:
    description: The etcd_* variables that exist, as in the argument_specs of the role P(kubeadm.etcd.etcd#role).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show the verdict on each cluster
  ansible.builtin.debug:
    msg: "{{ (hostvars | kubeadm.etcd.report(groups['etcd'], ansible_play_hosts, ansible_play_hosts_all, {})).clusters }}"
"""

RETURN = r"""
_value:
  description:
    - When it was made (C(at)), the worst C(verdict), and C(clusters), each with its verdict, reasons, members, certificates,
      findings, what is open (C(metrics)), and C(lines) for a terminal.
  type: dict
"""

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.filter.cluster import cluster as cluster_of
from ansible_collections.kubeadm.etcd.plugins.filter.cluster import inventory_variables, read_once
from ansible_collections.kubeadm.etcd.plugins.filter.plan import as_cluster

if TYPE_CHECKING:
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import Looked


def look(
    hostvars: Any, group: list[str], hosts: list[str], all_hosts: list[str], options: dict[str, Any]
) -> list[Looked]:
    """What the run knows of each cluster that it began with, in inventory order."""
    # When it is called: see cluster.py.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import Looked, Settings

    hostvars = read_once(hostvars, list(dict.fromkeys([*group, *all_hosts])))
    found: dict[str, Looked] = {}
    for host in [item for item in [*group, *all_hosts] if item in all_hosts]:
        resolved = as_cluster(cluster_of(hostvars, host, group, options))
        members = [member.host for member in resolved.members]
        there = [item for item in members if item in hosts]
        if resolved.name in found:
            # Each host says what is wrong with its own variables.
            known = found[resolved.name].cluster.problems
            known.extend(text for text in resolved.problems if text not in known)
            continue
        asked = [item for item in there if "__report_health" in hostvars[item]]
        answers = {item: hostvars[item]["__report_health"] for item in asked}
        speaker = next((item for item, answer in answers.items() if not answer.get("skipped")), next(iter(there), ""))
        observations = {item: hostvars[item].get("__etcd_host", {}) for item in there}
        found[resolved.name] = Looked(
            cluster=resolved,
            speaker=speaker,
            health=answers.get(speaker),
            observations={item: value for item, value in observations.items() if "facts" in value},
            lost=[item for item in members if item in all_hosts and item not in hosts],
            settings={
                item: Settings.from_variables(inventory_variables(hostvars, item), options)
                for item in dict.fromkeys([*members, host])
            },
        )
    return list(found.values())


def report(
    hostvars: Any, group: list[str], hosts: list[str], all_hosts: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import assemble

    return assemble(look(hostvars, group, hosts, all_hosts, options), datetime.now(timezone.utc))


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"report": report}
