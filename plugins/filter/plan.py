# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run has to do, and why it must not. A thin layer over _control/run.py."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: What follows from the observations of the hosts of an etcd cluster
version_added: 0.1.0
author:
  - The kubeadm.etcd maintainers (@kubeadm)
description:
  - Judges what M(kubeadm.etcd.etcd_host_info) saw on the hosts of a cluster and decides what a run may do.
positional: cluster, hosts
options:
  _input:
    description: The variable C(hostvars). Each observed host has its observation in C(__etcd_host).
    type: dict
    required: true
  cluster:
    description: The cluster, as P(kubeadm.etcd.cluster#filter) returns it.
    type: dict
    required: true
  hosts:
    description: Hosts that take part in the run.
    type: list
    elements: str
    required: true
  runtime_endpoint:
    description: Socket of the container runtime, for messages.
    type: str
    default: ""
  own_ca:
    description: Your own CA, as P(kubeadm.etcd.own_ca#filter) returns it.
    type: dict
    default: {}
  image_archive:
    description: Image archive on the controller that is to be imported.
    type: path
    default: ""
  external_file:
    description: File on the controller that is to get the etcd.external stanza of this cluster.
    type: path
    default: ""
  allow_interruption:
    description: Whether members of a cluster of one or two may be restarted.
    type: bool
    default: false
  signing_dir:
    description: Where requests go for a CA that signs elsewhere, for messages.
    type: str
    default: ""
  lost:
    description: Hosts that the run began with and that have failed or cannot be reached.
    type: list
    elements: str
    default: []
  limit:
    description: What the run is limited to, for messages.
    type: str
    default: ""
  certificates_only:
    description: Whether the run issues certificates and leaves all else alone.
    type: bool
    default: false
  allow_untested_kubeadm:
    description: Whether a kubeadm newer than those that this collection was tested with may be used.
    type: bool
    default: false
  remove_stray_ca_keys:
    description: Whether a ca.key on another host than the CA host is to be removed.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show what a run would do
  ansible.builtin.debug:
    msg: "{{ hostvars | kubeadm.etcd.plan(__etcd_cluster, ansible_play_hosts) }}"
"""

RETURN = r"""
_value:
  description:
    - Action (bootstrap, nothing, rolling, start or refuse), state (value of initial-cluster-state), token (initial-cluster-token of a
      cluster that is being founded), published (hosts whose member names itself only in initial-cluster), order (hosts to be touched one after
      the other), start (hosts to be started all at once), settled (whether no stage has anything to do), certificates (whether any have to be
      made), ca (whether the CA has to be made or brought in), replace_ca (hosts whose ca.crt may be replaced), remove_ca_key (hosts whose
      ca.key is to be removed), known_addresses (by host, addresses that its member leaves, which its certificates have until it has moved),
      moves (hosts whose member leaves an address in this run), elsewhere (whether certificates are signed elsewhere),
      import_image (hosts that are to get the image archive),
      record (hosts whose record is to be written), speaker (host that speaks for the cluster), asker (host that can tell most of it), lines (the
      plan for people), problems (why nothing is done), held (why certificates are issued and nothing else), warnings, and observed (what tells
      the observations apart that the plan was made of).
  type: dict
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.filter.cluster import read_once
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.run import (
    Attendance,
    Wish,
    make_plan,
    with_image,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import Member


def as_cluster(data: Mapping[str, Any]) -> Cluster:
    """The cluster from its form as plain data."""
    fields = {key: data[key] for key in ("name", "ca_host", "problems", "warnings")}
    return Cluster(members=[Member(**member) for member in data["members"]], **fields)


def plan(
    hostvars: Any, cluster: Mapping[str, Any], hosts: list[str], lost: list[str] | None = None, **wishes: Any
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    found = as_cluster(cluster)
    hostvars = read_once(hostvars, hosts)
    clusters = {host: hostvars[host].get("__etcd_cluster") or {} for host in hosts}
    # Problems that one host found in its own variables are those of the cluster.
    for other in clusters.values():
        if other.get("name") == found.name:
            found.problems.extend(text for text in other["problems"] if text not in found.problems)
    members = [member.host for member in found.members if member.host in hosts]
    observed = {
        host: hostvars[host]["__etcd_host"] for host in members if "facts" in hostvars[host].get("__etcd_host", {})
    }
    wish = Wish(**{key: value for key, value in wishes.items() if value is not None})
    observations = with_image(observed, wish.image_archive)
    failed = [member.host for member in found.members if member.host in (lost or [])]
    attendance = Attendance(
        members,
        failed,
        [host for host in members if host not in observed and host not in failed],
    )
    archive: list[str] = []
    if wish.image_archive:
        # When it is needed: see cluster.py.
        from ansible_collections.kubeadm.etcd.plugins.module_utils._control.archive import archive_problems

        lacking = [item["config"]["image"] for item in observations.values() if item["reasons"]["image"]]
        archive = archive_problems(wish.image_archive, lacking)
    # Of the other clusters only what the inventory says is known here. What this one has of the play, they have too.
    unset = "" if members and "etcd_external_config_file" in hostvars[members[0]] else wish.external_file
    files = {clusters[host].get("name", ""): hostvars[host].get("etcd_external_config_file", unset) for host in hosts}
    return make_plan(found, observations, attendance, replace(wish, external_files=files), archive)


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"plan": plan}
