# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What control plane hosts still need of their cluster. A thin layer over _control/control_plane.py."""

from __future__ import annotations

DOCUMENTATION = r"""
name: hand_over
short_description: What control plane hosts still need of their etcd cluster
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Judges what M(kubeadm.etcd.etcd_host_info) saw on control plane hosts and on the CA host of their cluster.
positional: cluster, hosts
options:
  _input:
    description: The variable C(hostvars). Each observed host has its observation in C(__etcd_host).
    type: dict
    required: true
  cluster:
    description: The cluster, as P(kubeadm.etcd.control_plane#filter) returns it.
    type: dict
    required: true
  hosts:
    description: Hosts that take part in the run.
    type: list
    elements: str
    required: true
  lost:
    description: Hosts that the run began with and that have failed or cannot be reached.
    type: list
    elements: str
    default: []
  own_ca:
    description: Your own CA, as P(kubeadm.etcd.own_ca#filter) returns it.
    type: dict
    default: {}
  signing_dir:
    description: Where requests go for a CA that signs elsewhere, for messages.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show what is to be done
  ansible.builtin.debug:
    msg: "{{ hostvars | kubeadm.etcd.hand_over(__etcd_cluster, ansible_play_hosts) }}"
"""

RETURN = r"""
_value:
  description:
    - Hosts that need a certificate (due), those among them that share their key with another host (copied), whether certificates are
      signed elsewhere (elsewhere), speaker (host that speaks for all), lines (the plan for people), problems and warnings.
  type: dict
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.filter.cluster import read_once
from ansible_collections.kubeadm.etcd.plugins.filter.plan import as_cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.preflight import merge_hosts


def hand_over(
    hostvars: Any,
    cluster: Mapping[str, Any],
    hosts: list[str],
    lost: list[str] | None = None,
    own_ca: Mapping[str, Any] | None = None,
    signing_dir: str = "",
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    # When it is called: see cluster.py.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import Client
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import hand_over as decide

    found = as_cluster(cluster)
    hostvars = read_once(hostvars, hosts)
    # Problems that one host found in its own variables are those of all that are served in this run.
    for host in hosts:
        other = hostvars[host].get("__etcd_cluster") or {}
        if found.name and other.get("name") == found.name:
            found.problems.extend(text for text in other["problems"] if text not in found.problems)
    clients = [Client(**client) for client in cluster["clients"]]
    wanted = [client.host for client in clients if client.host in hosts]
    seen = {host: hostvars[host].get("__etcd_host") or {} for host in [*wanted, found.ca_host] if host in hosts}
    observations = {host: observation for host, observation in seen.items() if "facts" in observation}
    decision = asdict(decide(found, clients, observations, own_ca or {}, lost or [], signing_dir))
    merged = {key: merge_hosts(decision[key], wanted) for key in ("lines", "problems", "warnings")}
    return {**decision, **merged, "speaker": wanted[0] if wanted else None}


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"hand_over": hand_over}
