# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who the members of a host's cluster are. A thin layer over _control/cluster.py."""

from __future__ import annotations

DOCUMENTATION = r"""
name: cluster
short_description: The etcd cluster that a host belongs to
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Resolves the members of a cluster from the variables of the inventory, and says what is wrong with them.
positional: host, group, options, play, names
options:
  _input:
    description: The variable C(hostvars).
    type: dict
    required: true
  host:
    description: Inventory name of the host whose cluster is wanted.
    type: str
    required: true
  group:
    description: Hosts that may be members, in inventory order.
    type: list
    elements: str
    required: true
  options:
    description: The etcd_* variables that exist, as in the argument_specs of the role P(kubeadm.etcd.etcd#role).
    type: dict
    required: true
  play:
    description:
      - Values as the play has them. Invalid ones are problems, and so are those that the members read from the inventory, and do not find there.
    type: dict
    default: {}
  names:
    description: Names of all etcd_* variables that the play has. Unknown ones are problems.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show the members
  ansible.builtin.debug:
    msg: "{{ hostvars | kubeadm.etcd.cluster(inventory_hostname, groups['etcd'], {}) }}"
"""

RETURN = r"""
_value:
  description: Name, members (host, name, address, SANs), ca_host, known (whether all addresses are), problems and warnings.
  type: dict
"""

from dataclasses import asdict
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import CONNECTION, resolve

# Ansible loads all filters of a collection for any one of them, from source, in each worker of each task that uses one. So
# filters that not every run needs import what they work with when they are called.


def read_once(hostvars: Any, hosts: list[str]) -> dict[str, Any]:
    """hostvars of some hosts. Ansible puts together all variables of a host anew each time that hostvars is asked for it."""
    return {host: hostvars[host] for host in hosts}


def inventory_variables(hostvars: Any, host: str) -> dict[str, Any]:
    """What the inventory says of a host, as far as it matters here."""
    variables = hostvars[host]
    wanted = [key for key in variables if key.startswith("etcd_") or key in CONNECTION]
    return {key: variables[key] for key in wanted}


def observed_addresses(hostvars: Any, hosts: list[str]) -> dict[str, str]:
    """Default addresses of the hosts that this run has looked at."""
    facts = {host: (hostvars[host].get("__etcd_host") or {}).get("facts", {}) for host in hosts}
    return {host: str(seen["default_address"]) for host, seen in facts.items() if seen.get("default_address")}


def cluster(
    hostvars: Any,
    host: str,
    group: list[str],
    options: dict[str, Any],
    play: dict[str, Any] | None = None,
    names: list[str] | None = None,
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    known = list(dict.fromkeys([*group, host]))
    hostvars = read_once(hostvars, known)
    observed = observed_addresses(hostvars, known)
    inventory = {item: inventory_variables(hostvars, item) for item in known}
    found = resolve(host, group, inventory, observed, options, play, names or ())
    return {**asdict(found), "known": found.known}


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"cluster": cluster}
