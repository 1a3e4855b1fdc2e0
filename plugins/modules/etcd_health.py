#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_health
short_description: What is true of an etcd cluster now
version_added: 0.1.0
description:
  - Asks every member side by side over TLS, with a client certificate of the CA, and judges the answers - health, leader,
    term, lag, learners, alarms, database size, membership as each member tells it against the expected one, versions,
    server certificates.
  - Changes nothing, and never fails by itself; O(fail) and C(failed_when) make it fail.
  - Is over in O(request_timeout) seconds (with O(wait_for) in O(timeout)), whatever is at the other end.
  - Runs on a member as well as on the controller, where that reaches the members and has a certificate and its key.
    Such a certificate may do everything with the data, since etcd knows no less than that.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.connection
options:
  members:
    description: The expected members. Either these or O(endpoints).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the member.
        type: str
        required: true
      address:
        description:
          - IP address of the member, version 4 or 6. A member without one is not asked; that is a reason for the verdict to be
            worse than V(healthy).
        type: str
        default: ""
  endpoints:
    description: Client URLs (C(https://ADDRESS:PORT)) to be asked, where the membership is not to be judged.
    type: list
    elements: str
  wait_for:
    description:
      - The verdict to wait for. A better one will do.
      - V(degraded) waits for a quorum, V(healthy) until nothing is wrong, V(none) does not wait.
      - Alarms are not waited for, since they stay until a person disarms them (RV(lasting)).
      - In check mode nothing is waited for.
    type: str
    choices: [none, degraded, healthy]
    default: none
  runs:
    description:
      - Whether etcd of all members is known to run, as M(kubeadm.etcd.etcd_member_turn) has seen. A member whose connections are refused or not
        answered for 15 seconds all the same is not waited for any longer.
    type: bool
    default: false
  timeout:
    description: How many seconds to wait at most.
    type: int
    default: 120
  request_timeout:
    description: How many seconds one member has for all of its answers.
    type: int
    default: 3
  renewal_window:
    description: Server certificates that end sooner than this are a finding. A duration such as V(720h).
    type: str
    default: 2160h
  quota:
    description:
      - How large the database may get, in bytes, on members that do not tell it (etcd before 3.6).
      - Give the value of their flag C(--quota-backend-bytes) if it is set, as it is. A value that etcd would not take counts as
        unknown.
      - Without it, etcd's default of 2147483648.
    type: raw
  fail:
    description: Fail where the verdict is worse than O(wait_for) (without waiting, than V(healthy)).
    type: bool
    default: false
  show:
    description:
      - Print the table as text when the cluster is what O(wait_for) asks for, and these lines below it. Not printed if the callback prints for
        programs (C(json)); then RV(table) has it.
    type: list
    elements: str
seealso:
  - module: kubeadm.etcd.etcd_host_info
  - name: The gateway that is asked
    description: etcd's documentation of its JSON gateway.
    link: https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/
"""

EXAMPLES = r"""
- name: Wait until three members are healthy
  kubeadm.etcd.etcd_health:
    members:
      - name: infra0
        address: 10.0.0.6
      - name: infra1
        address: 10.0.0.7
      - name: infra2
        address: 10.0.0.8
    wait_for: healthy
    timeout: 60
    fail: true
    show: []

- name: Go on as long as writes go through, and no certificate is about to expire
  kubeadm.etcd.etcd_health:
    endpoints:
      - https://10.0.0.6:2379
      - https://10.0.0.7:2379
    renewal_window: 168h
  register: health
  failed_when: not health.quorum or health.alarms or 'certificate' in health.findings | map(attribute='code')

- name: Ask from the controller, with a certificate that lies there
  kubeadm.etcd.etcd_health:
    endpoints:
      - https://10.0.0.6:2379
    ca: /srv/etcd-client/ca.crt
    cert: /srv/etcd-client/client.crt
    key: /srv/etcd-client/client.key
  delegate_to: localhost
  become: false
"""

RETURN = r"""
verdict:
  description:
    - V(healthy) - nothing is wrong.
    - V(degraded) - there is a quorum, but something is wrong. Writes go through unless RV(alarms) has an entry.
    - V(down) - no read went through the log of any member, or so many refuse connections that there can be no quorum.
    - V(unknown) - nobody could be asked, for reasons that say nothing of the members (network, names, certificates).
  returned: always
  type: str
  sample: degraded
reasons:
  description: Why the verdict is not V(healthy), one sentence each, with what to do where that is known.
  returned: always
  type: list
  elements: str
  sample: ["infra1 is not healthy: RAFT NO LEADER."]
findings:
  description: What deserves attention although it makes nothing unhealthy today.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: One of V(security), V(mixed-versions), V(even-members), V(certificate), V(quota), V(fragmentation) and V(lag).
      type: str
    member:
      description: Name of the member. Empty where it is about the cluster.
      type: str
    text:
      description: What was found.
      type: str
    remedy:
      description: What to do.
      type: str
healthy:
  description: Whether RV(verdict) is V(healthy).
  returned: always
  type: bool
quorum:
  description:
    - Whether a quorum works together, that is whether RV(verdict) is V(healthy) or V(degraded).
    - Writes may be refused all the same while RV(alarms) has an entry.
  returned: always
  type: bool
alarms:
  description: All alarms that any member reports.
  returned: always
  type: list
  elements: dict
  contains:
    kind:
      description: V(NOSPACE), V(CORRUPT), or the number of a kind that etcd has no name for.
      type: str
    member:
      description: Name of the member. Empty if the alarm is raised for the whole cluster.
      type: str
lasting:
  description: Whether nothing but alarms is wrong, which stay until a person disarms them. They are not waited for.
  returned: always
  type: bool
members:
  description: Each endpoint that was asked.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the member as the membership has it, else as expected.
      type: str
    endpoint:
      description: Client URL.
      type: str
    reachable:
      description: Whether it told its status.
      type: bool
    healthy:
      description: Whether it can read through the log and has no alarm.
      type: bool
    reason:
      description: What it says where it is not healthy.
      type: str
    error:
      description: Why it did not answer, or not all, and what to do.
      type: str
    error_code:
      description:
        - RV(members[].error) in one word. Empty where all was answered.
        - C(refused), C(silent) (TCP does not come through), C(timeout) (it does, and no answer follows), C(unreachable), C(name),
          C(closed), C(garbage), C(not-tls), C(tls), C(tls-san), C(tls-expired), C(tls-not-yet-valid), C(tls-unknown-ca),
          C(tls-client-refused), C(tls-server), C(no-gateway), C(auth), C(credentials), C(endpoint), C(address), or the gRPC code of an error
          of etcd's (C(unavailable), C(exhausted), ...).
      type: str
    round_trip:
      description: Milliseconds for connection and TLS handshake. None where there was none.
      type: float
    certificate:
      description: The server certificate as shown. None where none was accepted.
      type: dict
      contains:
        subject:
          description: Common name.
          type: str
        names:
          description: SANs.
          type: list
          elements: str
        not_before:
          description: Begin, ISO 8601.
          type: str
        not_after:
          description: End, ISO 8601.
          type: str
        seconds_left:
          description: Seconds until its end.
          type: int
        days_left:
          description: Whole days until its end.
          type: int
        ends_with_ca:
          description: Whether it ends with its CA, so that no certificate of this CA can last longer.
          type: bool
    id:
      description: Id of the member, hexadecimal. This and the following are there where RV(members[].reachable) is true.
      type: str
    role:
      description: V(leader), V(follower) or V(learner).
      type: str
    version:
      description: Version of etcd that it runs.
      type: str
    cluster_version:
      description: The version on which it says that the cluster agreed.
      type: str
    leader:
      description: Name of the leader that it knows. Empty where it knows none.
      type: str
    raft_term:
      description: Its term.
      type: int
    raft_index:
      description: The last entry of its log.
      type: int
    raft_applied_index:
      description: The last entry that it has applied.
      type: int
    raft_lag:
      description: Entries that it has not applied of the longest log seen.
      type: int
    db_size:
      description: Size of the database file in bytes.
      type: int
    db_size_in_use:
      description: Bytes of it that are in use.
      type: int
    fragmentation:
      description: The part of the file that is not in use, 0 to 1. Defragmentation gives it back.
      type: float
    quota:
      description: Bytes at which writes are refused, as the member tells it, else O(quota). 0 if there is no limit, or it is unknown.
      type: int
    alarms:
      description: The kinds of its alarms (RV(alarms)), with those of the whole cluster.
      type: list
      elements: str
    membership:
      description: Names of the members as it knows them. A learner does not tell.
      type: list
      elements: str
leader:
  description: Name of the leader on which the members agree. Empty where they do not.
  returned: always
  type: str
cluster_id:
  description: Id of the cluster, hexadecimal.
  returned: always
  type: str
version:
  description: Version of etcd, the oldest where there are several.
  returned: always
  type: str
cluster_version:
  description: The version on which the cluster agreed.
  returned: always
  type: str
quorum_size:
  description: How many voting members make a quorum.
  returned: always
  type: int
table:
  description: All of it for a person, line by line.
  returned: always
  type: list
  elements: str
progress:
  description:
    - One line for each time that verdict or reasons changed while it waited. On the host they go to the system log meanwhile.
  returned: always
  type: list
  elements: str
  sample: ["after 0 s: down; No member knows a leader: quorum is lost, or an election is under way.", "after 4 s: healthy"]
waited:
  description: Seconds that were waited.
  returned: always
  type: float
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import duration_problems, duration_seconds
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import bracketed


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "members": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "default": ""},
                },
            },
            "endpoints": {"type": "list", "elements": "str"},
            "client_port": {"type": "int", "default": 2379},
            "ca": {"type": "path", "default": "/etc/kubernetes/pki/etcd/ca.crt"},
            "cert": {"type": "path", "default": "/etc/kubernetes/pki/etcd/healthcheck-client.crt"},
            "key": {"type": "path", "default": "/etc/kubernetes/pki/etcd/healthcheck-client.key"},
            "wait_for": {"type": "str", "choices": ["none", "degraded", "healthy"], "default": "none"},
            "runs": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 120},
            "request_timeout": {"type": "int", "default": 3},
            "renewal_window": {"type": "str", "default": "2160h"},
            "quota": {"type": "raw"},
            "fail": {"type": "bool", "default": False},
            # Of the action plugin.
            "show": {"type": "list", "elements": "str"},
        },
        mutually_exclusive=[("members", "endpoints")],
        required_one_of=[("members", "endpoints")],
        supports_check_mode=True,
    )
    params = module.params
    problems = duration_problems("renewal_window", params["renewal_window"])
    if problems:
        module.fail_json(msg=" ".join(problems))
    window = duration_seconds(params["renewal_window"]) or 0.0
    targets = [
        (member["name"], f"https://{bracketed(member['address'])}:{params['client_port']}" if member["address"] else "")
        for member in params["members"] or []
    ] or [("", endpoint) for endpoint in params["endpoints"] or []]
    if not targets:
        module.fail_json(msg="There is nobody to ask: members or endpoints is an empty list. Name at least one.")
    quota = _health.quota_of(params["quota"])
    paths = (params["ca"], params["cert"], params["key"])

    def ask(seconds: float) -> _health.Report:
        seen = _health.look_at_all(targets, paths, seconds)
        if params["runs"]:
            seen = [_health.known_to_run(item) for item in seen]
        return _health.evaluate(seen, time.time(), window, quota)

    wanted = None if params["wait_for"] == "none" or module.check_mode else params["wait_for"]
    report, progress, waited = _health.wait_for(
        wanted, params["timeout"], params["request_timeout"], ask, module.log, params["runs"]
    )
    table = _health.render_table(report)
    result = {
        **asdict(report),
        "healthy": report.healthy,
        "quorum": report.quorum,
        "table": table,
        "progress": progress,
        "waited": round(waited, 1),
    }
    asked_for = "healthy" if params["wait_for"] == "none" else params["wait_for"]
    if params["fail"] and not report.at_least(asked_for):
        waiting = f" after {waited:.0f} s" if wanted else ""
        module.fail_json(msg="\n".join([f"The cluster is {report.verdict}{waiting}.", *table]), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
