# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a run has to do, and why it must not. A thin layer over module_utils/_plan.py and _preflight.py."""

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
    - Action (bootstrap, nothing, rolling, start or refuse), state (value of initial-cluster-state), order (hosts to be touched
      one after the other), start (hosts to be started all at once), settled (whether no stage has anything to do), certificates
      (whether any have to be made), ca (whether the CA has to be made or brought in), replace_ca (hosts whose ca.crt may be
      replaced), remove_ca_key (hosts whose ca.key is to be removed), elsewhere (whether certificates are signed elsewhere), import_image
      (hosts that are to get the image archive), speaker (host that speaks for the cluster), asker (host that can tell most of it),
      lines (the plan for people), problems and warnings.
  type: dict
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.filter.cluster import read_once
from ansible_collections.kubeadm.etcd.plugins.module_utils._authority import (
    broken_ca_hosts,
    ca_problems,
    elsewhere_warnings,
    signs_elsewhere,
    stray_ca_keys,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._cluster import Cluster, Member
from ansible_collections.kubeadm.etcd.plugins.module_utils._plan import (
    BOOTSTRAP,
    REFUSE,
    Plan,
    alarm_warnings,
    decide,
    image_reasons,
    is_settled,
    lost_problems,
    only_certificates,
    plan_lines,
    without_restarts,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._preflight import (
    cluster_problems,
    cluster_warnings,
    external_problems,
    host_problems,
    host_warnings,
    merge_hosts,
    unknown_address_problems,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._problem import Problem, merged


def as_cluster(data: Mapping[str, Any]) -> Cluster:
    """The cluster from its form as plain data."""
    fields = {key: data[key] for key in ("name", "ca_host", "problems", "warnings")}
    return Cluster(members=[Member(**member) for member in data["members"]], **fields)


def judge(
    found: Cluster, observations: Mapping[str, Any], runtime_endpoint: str, own_ca: Mapping[str, Any], archive: str
) -> tuple[list[Problem], list[str]]:
    """Problems and warnings of the hosts and of what they have in common."""
    facts = {host: observation["facts"] for host, observation in observations.items()}
    problems = list(map(Problem, [*found.problems, *own_ca.get("problems", []), *unknown_address_problems(found)]))
    warnings = [*found.warnings]
    for member in found.members:
        if member.host not in observations:
            continue
        observation = observations[member.host]
        problems += host_problems(member, facts[member.host], runtime_endpoint, observation["kubelet"]["allows_swap"])
        problems += [Problem.from_dict(item, member.host) for item in observation["problems"]]
        if archive and observation["images"] is None:
            text = "etcd_image_archive needs containerd and its program ctr. Let the runtime pull the image instead."
            problems.append(Problem(text, host=member.host))
        noticed = [*host_warnings(facts[member.host]), *observation["pki"].get("warnings", [])]
        warnings += [f"{member.host}: {text}" for text in noticed]
    return problems + cluster_problems(found, facts), warnings + cluster_warnings(facts)


def asker(members: list[str], observations: Mapping[str, Any]) -> str | None:
    """The host that can tell most of the cluster: the first whose member is ready, else that could ask any, else the first."""
    etcd = {host: observations.get(host, {}).get("etcd", {}) for host in members}
    # One without usable certificates, or cut off from the others, would take its own trouble for that of all.
    able = [host for host in members if etcd[host].get("members")]
    return next(iter([*(host for host in able if etcd[host].get("ready")), *able, *members]), None)


def plan(
    hostvars: Any,
    cluster: Mapping[str, Any],
    hosts: list[str],
    runtime_endpoint: str = "",
    own_ca: Mapping[str, Any] | None = None,
    image_archive: str = "",
    external_file: str = "",
    allow_interruption: bool = False,
    remove_stray_ca_keys: bool = False,
    signing_dir: str = "",
    lost: list[str] | None = None,
    limit: str = "",
    certificates_only: bool = False,
) -> dict[str, Any]:
    """See DOCUMENTATION."""
    own_ca = own_ca or {}
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
    # What is on the controller is seen by the controller alone.
    observations: dict[str, Mapping[str, Any]] = {
        host: {**item, "reasons": {**item["reasons"], "image": image_reasons(item, image_archive)}}
        for host, item in observed.items()
    }
    if certificates_only:
        observations = only_certificates(observations)
    lacking = [host for host, item in observations.items() if item["reasons"]["image"]]
    missing = [member.host for member in found.members if member.host in (lost or [])]
    problems, warnings = judge(found, observations, runtime_endpoint, own_ca, image_archive)
    if image_archive:
        # When it is needed: see cluster.py.
        from ansible_collections.kubeadm.etcd.plugins.module_utils._archive import archive_problems

        problems += map(
            Problem, archive_problems(image_archive, [observations[host]["config"]["image"] for host in lacking])
        )
    problems += map(Problem, lost_problems(missing, limit))
    # Of the other clusters only what the inventory says is known here. What this one has of the play, they have too.
    unset = "" if members and "etcd_external_config_file" in hostvars[members[0]] else external_file
    others = {clusters[host].get("name", ""): hostvars[host].get("etcd_external_config_file", unset) for host in hosts}
    problems += map(Problem, external_problems(found.name, external_file, others))
    if found.problems or missing:
        decision = Plan(REFUSE)
    else:
        problems += ca_problems(found, observations, own_ca)
        decision = decide(found, observations, allow_interruption)
        if certificates_only:
            decision = without_restarts(found, decision)
        warnings += alarm_warnings(found, observations)
    signer = observations.get(found.ca_host)
    bring_in = bool(
        signer and own_ca.get("fingerprint") and signer["pki"].get("ca_fingerprint") != own_ca["fingerprint"]
    )
    make_ca = bring_in or bool(signer and signer["reasons"]["ca"])
    elsewhere = signs_elsewhere(found, observations, own_ca)
    if elsewhere:
        warnings += elsewhere_warnings(observations, signing_dir)
    stray = stray_ca_keys(found, observations) if remove_stray_ca_keys else []
    return {
        **asdict(decision),
        "settled": is_settled(decision, observations) and not (make_ca or stray),
        "ca": make_ca,
        "certificates": bool(
            make_ca or stray or any(item["reasons"]["certificates"] for item in observations.values())
        ),
        "replace_ca": members if decision.action == BOOTSTRAP else broken_ca_hosts(found, observations),
        "remove_ca_key": stray,
        "elsewhere": elsewhere,
        "import_image": lacking,
        "lines": merge_hosts(plan_lines(found, decision, observations), members),
        "speaker": members[0] if members else None,
        "asker": asker(members, observations),
        "problems": [*merged(problems), *merge_hosts(decision.problems, members)],
        "warnings": merge_hosts([*warnings, *decision.warnings], members),
    }


class FilterModule:
    """Filters of the collection."""

    def filters(self) -> dict[str, Any]:
        return {"plan": plan}
