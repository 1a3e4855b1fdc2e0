# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the CA host is asked to sign: what members ask for, beside what the inventory says they may."""

from __future__ import annotations

DOCUMENTATION = r"""
name: signing_requests
short_description: The certificate requests of all members of a cluster
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Puts the requests that M(kubeadm.etcd.etcd_pki) made on the members beside the names and addresses that the inventory
    gives them, so that the CA host can refuse a request for another member's name.
positional: members, known
options:
  _input:
    description: The variable C(hostvars). Each host has what step C(request) returned in C(__certificates_requests).
    type: dict
    required: true
  members:
    description: >-
      Members or control plane hosts (C(members) and C(clients)), as M(kubeadm.etcd.etcd_observe) returns them in RV(kubeadm.etcd.etcd_observe#module:cluster).
    type: list
    elements: dict
    required: true
  known:
    description: Addresses that certificates of members may have besides, by host, as M(kubeadm.etcd.etcd_plan) returns them (C(known_addresses)).
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Show the requests
  ansible.builtin.debug:
    msg: "{{ hostvars | kubeadm.etcd.signing_requests(__etcd_cluster.members) }}"
"""

RETURN = r"""
_value:
  description: Entries for the option C(requests) of M(kubeadm.etcd.etcd_pki).
  type: list
  elements: dict
"""

from typing import Any


def signing_requests(
    hostvars: Any,
    members: list[dict[str, Any]],
    known: dict[str, list[str]] | None = None,
) -> list[dict[str, Any]]:
    """See DOCUMENTATION."""
    asked = [(member, hostvars[member["host"]].get("__certificates_requests") or {}) for member in members]
    return [
        {
            **member,
            "csrs": result["csrs"],
            "serials": serials_in_use(hostvars[member["host"]]),
            "known_addresses": (known or {}).get(member["host"], []),
        }
        for member, result in asked
        if result.get("csrs")
    ]


def serials_in_use(variables: Any) -> dict[str, str]:
    """Serial numbers of the certificates that were seen on a host."""
    seen = variables.get("__etcd_host", {}).get("pki", {}).get("certificates", [])
    return {item["kind"]: item["serial"] for item in seen}


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"signing_requests": signing_requests}
