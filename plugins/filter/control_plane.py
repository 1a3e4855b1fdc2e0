# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which cluster a control plane host uses. A thin layer over _control/control_plane.py."""

from __future__ import annotations

DOCUMENTATION = r"""
name: control_plane
short_description: The etcd cluster that a control plane host uses
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Resolves, for a member as well as for a control plane host, the members of its cluster and the control plane hosts that use
    it, from the variables of the inventory, and says what is wrong with them.
positional: host, planes, group, options
options:
  _input:
    description: The variable C(hostvars).
    type: dict
    required: true
  host:
    description: Inventory name of the host whose cluster is wanted.
    type: str
    required: true
  planes:
    description: Control plane hosts, in inventory order.
    type: list
    elements: str
    required: true
  group:
    description: Hosts that are members, in inventory order.
    type: list
    elements: str
    required: true
  options:
    description: The etcd_* variables that exist, as in the argument_specs of the role P(kubeadm.etcd.etcd#role).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show who uses the cluster
  ansible.builtin.debug:
    msg: "{{ hostvars | kubeadm.etcd.control_plane(inventory_hostname, groups['kube_control_plane'], groups['etcd'], {}) }}"
"""

RETURN = r"""
_value:
  description: >-
    The cluster as P(kubeadm.etcd.cluster#filter) returns it, and C(clients), its control plane hosts (host, name, kinds of
    certificates).
  type: dict
"""

from dataclasses import asdict
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.filter.cluster import inventory_variables, observed_addresses, read_once


def control_plane(
    hostvars: Any, host: str, planes: list[str], group: list[str], options: dict[str, Any]
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    # When it is called: see cluster.py.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._control.control_plane import resolve_control_plane

    known = list(dict.fromkeys([*group, *planes, host]))
    hostvars = read_once(hostvars, known)
    inventory = {item: inventory_variables(hostvars, item) for item in known}
    found, clients = resolve_control_plane(host, planes, group, inventory, observed_addresses(hostvars, known), options)
    return {**asdict(found), "known": found.known, "clients": [asdict(client) for client in clients]}


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"control_plane": control_plane}
