#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_log
short_description: Find out from etcd's log why a member is not healthy
version_added: 0.1.0
description:
  - Checks whether the member of this host runs and listens, and reads the newest log of its container.
  - If etcd has ended, returns the reason. If it runs, returns the most frequent warnings and errors of the last minute.
  - Changes nothing, and never fails.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  name:
    description: Name of the member.
    type: str
    required: true
  client_port:
    description: Client port of the member.
    type: int
    default: 2379
  error_code:
    description:
      - How a connection from another host to the client port failed, from RV(kubeadm.etcd.etcd_health#module:members[].error_code). Empty if
        it succeeded.
    type: str
    default: ""
seealso:
  - module: kubeadm.etcd.etcd_health
"""

EXAMPLES = r"""
- name: Read why infra1 is not healthy
  kubeadm.etcd.etcd_log:
    name: infra1
  register: log

- name: Show it
  ansible.builtin.debug:
    msg: "{{ log.reasons }}"
"""

RETURN = r"""
reasons:
  description: Why the member is not healthy, one message for each reason.
  returned: always
  type: list
  elements: str
  sample: ["etcd is not running. Its log says: discovery failed; error: member count is unequal."]
lines:
  description: RV(reasons), each after the name of the member, for the message at the end of a run.
  returned: always
  type: list
  elements: str
running:
  description: Whether etcd of this member runs.
  returned: always
  type: bool
log:
  description: The log that was read. Empty if there is none.
  returned: always
  type: str
  sample: /var/log/pods/kube-system_etcd-infra1_5e3f/etcd/0.log
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import log as _log
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import find_etcd_process
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import is_ours


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "client_port": {"type": "int", "default": 2379},
            "error_code": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        params = module.params
        port = params["client_port"]
        running = find_etcd_process(params["name"]) is not None
        listener = _host.listeners([port]).get(str(port))
        listening = bool(listener and is_ours(listener["argv"], params["name"]))
        paths = _log.log_paths(0.0)
        log = _log.last_words(paths)
        reasons = _log.explain_member(running, listening, log, params["error_code"])
        module.exit_json(
            changed=False,
            reasons=reasons,
            lines=[f"CAUSE: {params['name']}: {reason}" for reason in reasons],
            running=running,
            log=paths[0] if log else "",
        )


if __name__ == "__main__":
    main()
