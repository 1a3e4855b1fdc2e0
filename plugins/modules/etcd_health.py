#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_health
short_description: Check the health of an etcd cluster
version_added: 0.1.0
description:
  - Asks all members in parallel over TLS, with a client certificate of the CA, and judges the answers - health, leader, term, lag,
    learners, alarms, database size, membership compared with the expected one, versions, server certificates.
  - Changes nothing. Fails only with O(fail) or C(failed_when).
  - Ends after O(request_timeout) seconds at the latest, or, with O(wait_for), after O(timeout) seconds, whatever the members do.
  - Runs on a member, or on the controller if that reaches the members and has a client certificate with its key.
    Such a certificate gives full access to all data.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.connection
options:
  members:
    description: The expected members. Set either O(members) or O(endpoints).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the member.
        type: str
        required: true
      address:
        description:
          - IPv4 or IPv6 address of the member. A member without an address cannot be asked, so the verdict is worse than V(healthy).
        type: str
        default: ""
  endpoints:
    description: Client URLs (C(https://ADDRESS:PORT)) to ask, without a check of the membership.
    type: list
    elements: str
  wait_for:
    description:
      - The verdict to wait for, or a better one.
      - V(degraded) waits for a quorum, V(healthy) waits until nothing is wrong, V(none) does not wait.
      - The module does not wait for what stays until a person acts (RV(lasting)).
      - The module does not wait in check mode.
    type: str
    choices: [none, degraded, healthy]
    default: none
  runs:
    description:
      - Whether etcd of all members is known to run, from M(kubeadm.etcd.etcd_member_turn). If a member then refuses connections or does not
        answer for 15 seconds, the module stops waiting.
    type: bool
    default: false
  may_be_absent:
    description:
      - Names of members that are expected only if the membership has them, because another run may remove or add them. A finding reports
        those that the membership does not have.
    type: list
    elements: str
    default: []
  work_dir:
    description:
      - Directory of the record of this host. If the record says that the member of this host was removed, and its keys are gone, no member can be asked
        from here. Then the module returns RV(notice) alone. Empty is not looked at.
    type: path
    default: ""
  timeout:
    description: The maximum time to wait, in seconds.
    type: int
    default: 120
  request_timeout:
    description: The time for all answers of one member, in seconds.
    type: int
    default: 3
  renewal_window:
    description: Report server certificates that expire sooner than this as a finding. A duration such as V(720h).
    type: str
    default: 2160h
  quota:
    description:
      - The quota of the database in bytes, for members that do not report it (etcd before 3.6).
      - Set it to the value of their flag C(--quota-backend-bytes), if they have one. An invalid value counts as unknown.
      - By default, etcd's default of 2147483648.
    type: raw
  fail:
    description: Fail if the verdict is worse than O(wait_for), or, without waiting, worse than V(healthy).
    type: bool
    default: false
  show:
    description:
      - If the cluster reaches O(wait_for), print the table as text, with these lines below it. A callback for programs (C(json)) prints
        nothing; RV(table) has the table.
    type: list
    elements: str
seealso:
  - module: kubeadm.etcd.etcd_host_info
  - name: The JSON gateway
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

- name: Continue as long as writes succeed, and no certificate expires soon
  kubeadm.etcd.etcd_health:
    endpoints:
      - https://10.0.0.6:2379
      - https://10.0.0.7:2379
    renewal_window: 168h
  register: health
  failed_when: not health.quorum or health.alarms or 'certificate' in health.findings | map(attribute='code')

- name: Check from the controller, with a client certificate on it
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
notice:
  description: Why nothing else is returned. See O(work_dir).
  returned: if another run has removed the member of this host, and its keys
  type: str
verdict:
  description:
    - V(healthy) - nothing is wrong.
    - V(degraded) - there is a quorum, but something is wrong. Writes succeed unless RV(alarms) has an entry.
    - V(down) - no linearizable read succeeded on any member, or so many members refuse connections that there can be no quorum.
    - V(unknown) - no member could be asked, for reasons outside of the members (network, names, certificates).
  returned: always
  type: str
  sample: degraded
reasons:
  description: Why the verdict is not V(healthy), one message for each reason.
  returned: always
  type: list
  elements: str
  sample: ["infra1 is not healthy: RAFT NO LEADER."]
findings:
  description: What needs attention, although it does not make the cluster unhealthy now.
  returned: always
  type: list
  elements: dict
  contains:
    code:
      description: One of V(security), V(absent), V(mixed-versions), V(even-members), V(certificate), V(quota), V(fragmentation) and V(lag).
      type: str
    member:
      description: Name of the member. Empty if the finding is about the cluster.
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
    - Whether there is a working quorum, that is whether RV(verdict) is V(healthy) or V(degraded).
    - Writes may still be refused while RV(alarms) has an entry.
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
  description: Whether the only reasons are alarms and members that O(members) lacks. They stay until a person acts, so the module does not wait for their end.
  returned: always
  type: bool
members:
  description: The result for each endpoint.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the member in the membership, or the expected name.
      type: str
    endpoint:
      description: Client URL.
      type: str
    reachable:
      description: Whether the member returned its status.
      type: bool
    healthy:
      description: Whether linearizable reads succeed and the member has no alarm.
      type: bool
    reason:
      description: Why the member reports itself unhealthy.
      type: str
    error:
      description: Why answers are missing, and what to do.
      type: str
    error_code:
      description:
        - The code of RV(members[].error). Empty if there is no error.
        - C(refused), C(silent) (no TCP connection), C(timeout) (a TCP connection, but no answer), C(unreachable), C(name),
          C(closed), C(garbage), C(not-tls), C(tls), C(tls-san), C(tls-expired), C(tls-not-yet-valid), C(tls-unknown-ca),
          C(tls-client-refused), C(tls-server), C(no-gateway), C(auth), C(credentials), C(endpoint), C(address), or the gRPC code of an
          error from etcd (C(unavailable), C(exhausted), ...).
      type: str
    round_trip:
      description: Milliseconds for connection and TLS handshake. None if there was no connection.
      type: float
    certificate:
      description: The server certificate that the member presents. None without a TLS connection.
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
          description: Start of validity, ISO 8601.
          type: str
        not_after:
          description: End of validity, ISO 8601.
          type: str
        seconds_left:
          description: Seconds until it expires.
          type: int
        days_left:
          description: Whole days until it expires.
          type: int
        ends_with_ca:
          description: Whether its CA expires at the same time, so that no certificate of this CA can last longer.
          type: bool
    id:
      description: Id of the member, hexadecimal. This and the following fields exist if RV(members[].reachable) is true.
      type: str
    role:
      description: V(leader), V(follower) or V(learner).
      type: str
    version:
      description: Version of etcd that the member runs.
      type: str
    cluster_version:
      description: The cluster version that the member reports.
      type: str
    leader:
      description: Name of the leader that the member reports. Empty if it knows none.
      type: str
    raft_term:
      description: The raft term of the member.
      type: int
    raft_index:
      description: Index of the last entry in its raft log.
      type: int
    raft_applied_index:
      description: Index of the last entry that it has applied.
      type: int
    raft_lag:
      description: Number of entries by which it lags behind the longest raft log.
      type: int
    db_size:
      description: Size of the database file in bytes.
      type: int
    db_size_in_use:
      description: Bytes of the database file that are in use.
      type: int
    fragmentation:
      description: The unused part of the database file, 0 to 1. Defragmentation frees it.
      type: float
    quota:
      description: The database size in bytes at which etcd refuses writes, reported by the member, or O(quota). 0 if unlimited or unknown.
      type: int
    alarms:
      description: The kinds of its alarms (RV(alarms)), including those of the whole cluster.
      type: list
      elements: str
    membership:
      description: Names of the members that it reports. Empty for a learner.
      type: list
      elements: str
leader:
  description: Name of the leader. Empty if the members do not agree on one.
  returned: always
  type: str
cluster_id:
  description: Id of the cluster, hexadecimal.
  returned: always
  type: str
version:
  description: The oldest version of etcd that a member runs.
  returned: always
  type: str
cluster_version:
  description: The cluster version.
  returned: always
  type: str
downgrade:
  description: The minor version that a downgrade of etcd goes to which is under way. Empty if there is none.
  returned: always
  type: str
quorum_size:
  description: The number of voting members for a quorum.
  returned: always
  type: int
table:
  description: The table, the reasons and the findings as lines of text.
  returned: always
  type: list
  elements: str
progress:
  description:
    - One line for each change of verdict or reasons during the wait. The host's system log gets the same lines at once.
  returned: always
  type: list
  elements: str
  sample: ["after 0 s: down; No member knows a leader: the quorum is lost, or an election is in progress.", "after 4 s: healthy"]
waited:
  description: The time waited, in seconds.
  returned: always
  type: float
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd import health as _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.lock import at_work
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import removed_with_keys
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.database import quota_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.formats import duration_problems, duration_seconds

REMOVED = (
    "another run has removed the member of this host, and its keys, meanwhile. This run has made its changes, and could not wait from here until all members"
    " are healthy. Look at them: health.yml"
)


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
            "may_be_absent": {"type": "list", "elements": "str", "default": []},
            "work_dir": {"type": "path", "default": ""},
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
    with stated_errors(module.fail_json):
        params = module.params
        problems = duration_problems("renewal_window", params["renewal_window"])
        if problems:
            module.fail_json(msg=" ".join(problems))
        window = duration_seconds(params["renewal_window"]) or 0.0
        targets = _health.expected(params["members"] or [], params["client_port"]) or [
            ("", endpoint) for endpoint in params["endpoints"] or []
        ]
        if not targets:
            module.fail_json(msg="There is nobody to ask: members or endpoints is an empty list. Name at least one.")
        quota = quota_of(params["quota"])
        paths = (params["ca"], params["cert"], params["key"])

        def ask(seconds: float) -> _health.Report:
            # At each attempt: the other run may be as far as that at any moment.
            if removed_with_keys(params["work_dir"], paths):
                module.exit_json(changed=False, notice=REMOVED)
            seen = _health.look_at_all(targets, paths, seconds)
            if params["runs"]:
                seen = [_health.known_to_run(item) for item in seen]
            return _health.evaluate(seen, time.time(), window, quota, params["may_be_absent"])

        wanted = None if params["wait_for"] == "none" or module.check_mode else params["wait_for"]
        report, progress, waited = _health.wait_for(
            wanted, params["timeout"], params["request_timeout"], ask, module.log, params["runs"]
        )
        asked_for = "healthy" if params["wait_for"] == "none" else params["wait_for"]
        if wanted and not report.at_least(asked_for):
            report.reasons += at_work([endpoint for _name, endpoint in targets if endpoint], paths)
        table = _health.render_table(report)
        result = {
            **asdict(report),
            "healthy": report.healthy,
            "quorum": report.quorum,
            "table": table,
            "progress": progress,
            "waited": round(waited, 1),
        }
        if params["fail"] and not report.at_least(asked_for):
            waiting = f" after {waited:.0f} s" if wanted else ""
            module.fail_json(msg="\n".join([f"The cluster is {report.verdict}{waiting}.", *table]), **result)
        module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
