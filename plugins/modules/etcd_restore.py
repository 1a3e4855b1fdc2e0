#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_restore
short_description: Restore a member of an etcd cluster from a snapshot
version_added: 0.1.0
description:
  - Takes one of three steps. Every member of the cluster has to take a step before any takes the next one.
  - With C(prepare), the snapshot is verified and restored beside the data directory (C(etcdutl snapshot restore)). Nothing is stopped.
  - With C(stop), the manifest is moved to O(work_dir), and etcd has ended.
  - With C(replace), the former data is renamed and kept (C(.replaced-TIME)), and the restored data takes its place. Nothing is started.
  - A member whose data is of this restore already is left alone in every step.
  - If Kubernetes' keys are in the snapshot, the revision grows by 1000000000, and older ones are marked as compacted, so that no client takes a revision of
    the restored cluster for one that it has seen before.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.members
options:
  step:
    description: Which step.
    type: str
    choices: [prepare, stop, replace]
    required: true
  snapshot:
    description: The snapshot, or a copy of C(member/snap/db), on this host.
    type: path
    required: true
  token:
    description: The C(initial-cluster-token) of the restored cluster, the same on all hosts. Its ids are made of it.
    type: str
    required: true
  member:
    description: Name of the member on this host.
    type: str
    required: true
  members:
    description: All members of the restored cluster.
  image:
    description: The image of etcd. Its C(etcdutl) is used; the runtime pulls it if it is missing.
    type: str
    required: true
  identity:
    description: What the content of the snapshot is known by, from M(kubeadm.etcd.etcd_plan). Another file is refused. Empty is any.
    type: str
    default: ""
  former:
    description:
      - Id of the cluster whose data was on this host when the run was planned, hexadecimal. Empty if there was no data, or if it cannot be read.
      - The module fails if the host has other data now, because another run has restored or started it.
    type: str
    default: ""
  replace_healthy:
    description: Whether a member that is ready may be stopped. Otherwise the module fails, because another run has started the cluster.
    type: bool
    default: false
  peer_port:
    description: Port for the other members.
    type: int
    default: 2380
  data_dir:
    description: Data directory of etcd.
    type: path
    default: /var/lib/etcd
  work_dir:
    description: Directory that the former manifest is moved to.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  manifests_dir:
    description: Directory of static pod manifests.
    type: path
    default: /etc/kubernetes/manifests
  runtime_endpoint:
    description: Socket of the container runtime.
    type: str
    default: unix:///var/run/containerd/containerd.sock
"""

EXAMPLES = r"""
- name: Restore the snapshot beside the data
  kubeadm.etcd.etcd_restore:
    step: prepare
    snapshot: /var/backups/etcd/etcd-20261127T090000Z-r51234.db
    token: restore-2026-11-27
    member: infra0
    members:
      - {name: infra0, address: 10.0.0.6}
      - {name: infra1, address: 10.0.0.7}
      - {name: infra2, address: 10.0.0.8}
    image: registry.k8s.io/etcd:3.6.8-0
    former: cdf818194e3a8c32
"""

RETURN = r"""
reasons:
  description: What was changed, one sentence each. Empty if nothing was.
  returned: always
  type: list
  elements: str
  sample: ["/var/lib/etcd: renamed, and kept", "/var/lib/etcd: the restored data"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.restore import (
    RESTORE_ARGUMENTS,
    STEPS,
    RestoreSpec,
    restore,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors


def main() -> None:
    module = AnsibleModule(
        argument_spec={**RESTORE_ARGUMENTS, "step": {"type": "str", "choices": list(STEPS), "required": True}},
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = restore(RestoreSpec.from_params(module.params), module.params["step"], module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
