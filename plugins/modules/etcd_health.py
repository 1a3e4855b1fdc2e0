#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_health
short_description: What is true of an etcd cluster now
version_added: 0.1.0
description:
  - Asks every member over TLS and judges the answers - health, leader, term, lag, learners, alarms, database size,
    membership as expected, certificates. Can wait until all is well. Changes nothing.
  - Does not fail because a member is down, unless O(fail) says so.
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
        description: IP address of the member.
        type: str
        required: true
  endpoints:
    description: Client URLs to be asked, where the membership is not to be judged.
    type: list
    elements: str
  wait_for:
    description: What to wait for. V(quorum) - enough members are healthy; V(healthy) - nothing is wrong.
    type: str
    choices: [none, quorum, healthy]
    default: none
  timeout:
    description: How many seconds to wait at most.
    type: int
    default: 120
  request_timeout:
    description: How many seconds one answer may take.
    type: int
    default: 2
  certificate_warning:
    description: Warn of server certificates that end within this number of days.
    type: int
    default: 30
  fail:
    description: Fail where what was waited for (without waiting, V(healthy)) is not true.
    type: bool
    default: false
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
    fail: true
  register: health

- name: Show them
  ansible.builtin.debug:
    msg: "{{ health.table }}"
"""

RETURN = r"""
healthy:
  description: Whether nothing is wrong.
  returned: always
  type: bool
quorum:
  description: Whether enough members are healthy for writes.
  returned: always
  type: bool
lasting:
  description: Whether nothing but alarms is wrong, which stay until a person disarms them. They are not waited for.
  returned: always
  type: bool
members:
  description: Each member as it was seen. Sizes in bytes, ids hexadecimal.
  returned: always
  type: list
  elements: dict
leader:
  description: Name of the leader on which the members agree.
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
problems:
  description: What is wrong.
  returned: always
  type: list
  elements: str
warnings_found:
  description: What may soon be wrong.
  returned: always
  type: list
  elements: str
table:
  description: All of it for a person, line by line.
  returned: always
  type: list
  elements: str
waited:
  description: Seconds that were waited.
  returned: always
  type: float
"""

import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils import _health
from ansible_collections.kubeadm.etcd.plugins.module_utils._kubeadm import bracketed

POLL = 0.3


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "members": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "endpoints": {"type": "list", "elements": "str"},
            "client_port": {"type": "int", "default": 2379},
            "ca": {"type": "path", "default": "/etc/kubernetes/pki/etcd/ca.crt"},
            "cert": {"type": "path", "default": "/etc/kubernetes/pki/etcd/healthcheck-client.crt"},
            "key": {"type": "path", "default": "/etc/kubernetes/pki/etcd/healthcheck-client.key"},
            "wait_for": {"type": "str", "choices": ["none", "quorum", "healthy"], "default": "none"},
            "timeout": {"type": "int", "default": 120},
            "request_timeout": {"type": "int", "default": 2},
            "certificate_warning": {"type": "int", "default": 30},
            "fail": {"type": "bool", "default": False},
        },
        mutually_exclusive=[("members", "endpoints")],
        required_one_of=[("members", "endpoints")],
        supports_check_mode=True,
    )
    params = module.params
    targets = [
        (member["name"], f"https://{bracketed(member['address'])}:{params['client_port']}")
        for member in params["members"] or []
    ] or [("", endpoint) for endpoint in params["endpoints"] or []]
    paths = (params["ca"], params["cert"], params["key"])
    begin = time.monotonic()
    while True:
        seen = _health.look_at_all(targets, paths, params["request_timeout"])
        report = _health.evaluate(seen, time.time(), params["certificate_warning"])
        reached = report.quorum if params["wait_for"] == "quorum" else report.healthy
        waited = time.monotonic() - begin
        if reached or report.lasting or params["wait_for"] == "none" or module.check_mode or waited > params["timeout"]:
            break
        time.sleep(POLL)
    table = _health.render_table(report)
    result = {**asdict(report), "table": table, "waited": round(waited, 1)}
    result["warnings_found"] = result.pop("warnings")
    if params["fail"] and not reached:
        waiting = f" after {waited:.0f} s" if params["wait_for"] != "none" else ""
        module.fail_json(msg="\n".join([f"The cluster is not well{waiting}.", *table]), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
