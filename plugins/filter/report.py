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
    the run could not reach are named; their members are reported as the other members see them.
positional: group, hosts, all_hosts
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
"""

EXAMPLES = r"""
- name: Show the verdict on each cluster
  ansible.builtin.debug:
    msg: "{{ (hostvars | kubeadm.etcd.report(groups['etcd'], ansible_play_hosts, ansible_play_hosts_all)).clusters }}"
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

if TYPE_CHECKING:
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import Looked


def look(hostvars: Any, group: list[str], hosts: list[str], all_hosts: list[str]) -> list[Looked]:
    """What the run knows of each cluster that it began with, in inventory order."""
    # When it is called: Ansible loads all filters of a collection for any one of them, from source, in each worker of each task that uses one.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.look import look_of, resolved
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import Looked, Settings
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import REPORT
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.view import as_cluster
    from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import add_new
    from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import (
        inventory_variables,
        plain,
        read_once,
        variable_options,
    )

    known = list(dict.fromkeys([*group, *all_hosts]))
    options, hostvars = variable_options(), read_once(hostvars, known)
    inventory = {host: plain(inventory_variables(hostvars[host])) for host in known}
    before = {host: hostvars[host].get("__etcd_host") or {} for host in known}
    found: dict[str, Looked] = {}
    for host in [item for item in [*group, *all_hosts] if item in all_hosts]:
        cluster = as_cluster(resolved(look_of(host, list(group), [], REPORT), inventory, before, options, {}, ()))
        members = [member.host for member in cluster.members]
        there = [item for item in members if item in hosts]
        if cluster.name in found:
            # Each host says what is wrong with its own variables.
            add_new(found[cluster.name].cluster.problems, cluster.problems)
            continue
        asked = [item for item in there if "__report_health" in hostvars[item]]
        answers = {item: hostvars[item]["__report_health"] for item in asked}
        speaker = next((item for item, answer in answers.items() if not answer.get("skipped")), next(iter(there), ""))
        observations = {item: hostvars[item].get("__etcd_host", {}) for item in there}
        found[cluster.name] = Looked(
            cluster=cluster,
            speaker=speaker,
            health=answers.get(speaker),
            observations={item: value for item, value in observations.items() if "facts" in value},
            lost=[item for item in members if item in all_hosts and item not in hosts],
            settings={
                item: Settings.from_variables(inventory[item], options) for item in dict.fromkeys([*members, host])
            },
        )
    return list(found.values())


def report(hostvars: Any, group: list[str], hosts: list[str], all_hosts: list[str]) -> dict[str, Any]:
    """See DOCUMENTATION."""
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.report import assemble

    return assemble(look(hostvars, group, hosts, all_hosts), datetime.now(timezone.utc))


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"report": report}
