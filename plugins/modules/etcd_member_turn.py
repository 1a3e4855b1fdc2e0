#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member_turn
short_description: Change one etcd member of a host, its kubelet and its manifest, in one turn
version_added: 0.1.0
description:
  - Lets kubeadm render C(etcd.yaml) in a dry run, compares it with the installed one by meaning, and installs it by rename if it differs. The order
    of arguments means nothing, and neither do C(initial-cluster) and C(initial-cluster-state) once the member has data. That alone restarts no
    member; it is installed with the next change that is due. A wrong mode or owner is repaired without a restart.
  - Writes the files of the kubelet, and restarts it only if what runs differs from what would run.
  - The image is pulled, if the runtime does not have it, before anything stops.
  - With O(rolling=true) a cluster runs, and the member takes its turn in it. The turn holds a lock in the cluster, so that no other run changes a member
    at the same time, and begins only if the cluster can do without this member. It ends when the member is healthy again. If it does not come up, the
    manifest and the kubelet's files that it ran with before are put back, and the module fails.
  - With O(rolling=true) a member that gets another address or peer port is announced to the cluster before it restarts, and
    a member whose certificate directory was removed and made again is restarted, because its container holds the former directory.
  - With O(rolling=false) no cluster runs. The member is started, and the module waits until its etcd lasts. It does not wait for other members.
  - A failure has the cause in the words of the program that knows it (etcd, the kubelet, the container runtime), as soon as it is clear that waiting does
    not help.
  - The manifest before the last change is kept as C(etcd.yaml.previous) in O(work_dir).
  - One run at a time changes the member of a host. A second one waits up to two minutes for it, and fails then. A run whose controller or
    connection has ended gives up by itself, and leaves everything as it is.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  member:
    description: Name of this member.
    type: str
    required: true
  members:
    description: All members of the cluster, this one included.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the member.
        type: str
        required: true
      address:
        description: IP address of the member.
        type: str
        required: true
  config:
    description: The kubeadm configuration as text, as M(kubeadm.etcd.kubeadm_etcd_config) returns it. Empty to leave the manifest as it is.
    type: str
    default: ""
  kubelet:
    description: The kubelet as it is to be. Without it the kubelet is left as it is.
    type: dict
    suboptions:
      files:
        description: Text of each file by path, as M(kubeadm.etcd.etcd_host_info) returns it.
        type: dict
        required: true
      config_path:
        description: Which of O(kubelet.files) is the configuration of the kubelet.
        type: path
        required: true
  rolling:
    description:
      - Whether a cluster runs. Then all other members have to be healthy and to be a quorum without this one before
        anything is restarted, and this one has to be a healthy member again afterwards.
      - For a member that runs and is not ready, a quorum of healthy others is enough. A member whose process does not run may always be changed. Without
        a quorum it is started with the manifest that is there, which stays (RV(left)).
      - With V(false), the member of a cluster that exists is started with the manifest that is there, which stays (RV(left)). It is replaced
        only if etcd does not come up with it within a minute, and not if that would bring another image to data that etcd has run on.
      - If nothing differs, the member is waited for all the same, so that a run that was killed in between is
        finished by the next one.
    type: bool
    default: false
  allow_interruption:
    description: Change the member of a running cluster even if the cluster stops without it. It is waited for all the same.
    type: bool
    default: false
  startup_counts:
    description: Whether another startup probe alone is a reason to replace the manifest, which restarts the member.
    type: bool
    default: false
  manifests_dir:
    description: Directory of static pod manifests. Made with mode 0700 if missing.
    type: path
    default: /etc/kubernetes/manifests
  data_dir:
    description:
      - Data directory of etcd. Made with mode 0700, and kept so, unless it holds files that are not etcd's. It is never removed or renamed.
    type: path
    default: /var/lib/etcd
  work_dir:
    description: Where the manifest is staged, on the filesystem of O(manifests_dir). Made with mode 0700 if missing.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  pki_dir:
    description: Directory of the certificates. The one for health checks is used to ask the cluster.
    type: path
    default: /etc/kubernetes/pki
  kubeadm:
    description: The program.
    type: str
    default: kubeadm
  runtime_endpoint:
    description: Socket of the container runtime.
    type: str
    default: unix:///var/run/containerd/containerd.sock
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  metrics_port:
    description: Port on the loopback address for metrics and probes.
    type: int
    default: 2381
  timeout:
    description: Seconds to wait for the member.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Write kubeadmcfg.yaml
  kubeadm.etcd.kubeadm_etcd_config:
    name: infra0
    address: 10.0.0.6
    members: "{{ members }}"
  register: config

- name: Start a member of a new cluster
  kubeadm.etcd.etcd_member_turn:
    config: "{{ config.content }}"
    member: infra0
    members: "{{ members }}"

- name: Change a member of a running cluster
  kubeadm.etcd.etcd_member_turn:
    config: "{{ config.content }}"
    rolling: true
    member: infra0
    members: "{{ members }}"
  throttle: 1
"""

RETURN = r"""
manifest:
  description: The manifest.
  returned: always
  type: str
  sample: /etc/kubernetes/manifests/etcd.yaml
reasons:
  description: Why something was changed, one sentence each. Empty if nothing was.
  returned: always
  type: list
  elements: str
  sample: ["etcd.yaml: --quota-backend-bytes: 2147483648 -> 8589934592"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
  contains:
    part:
      description: What is changed.
      type: str
    code:
      description: Why, in a word.
      type: str
    text:
      description: Why, for people.
      type: str
    restarts:
      description: Whether the change restarts etcd.
      type: bool
left:
  description: Differences that were left, because the member was started with the manifest that was there. Run again when the cluster is healthy.
  returned: always
  type: list
  elements: str
  sample: ["etcd.yaml: --quota-backend-bytes: 2147483648 -> 8589934592"]
waited:
  description: Seconds until the member was healthy, or until its etcd lasted with O(rolling=false). 0 in check mode.
  returned: always
  type: float
  sample: 14.2
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.service import KubeletFiles
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import TurnSpec, take_turn
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError


def spec_of(params: dict[str, Any]) -> TurnSpec:
    """The turn that the options ask for."""
    kubelet = params["kubelet"]
    return TurnSpec(
        **{
            **params,
            "members": [(item["name"], item["address"]) for item in params["members"]],
            "kubelet": KubeletFiles(kubelet["files"], kubelet["config_path"]) if kubelet else None,
        }
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "member": {"type": "str", "required": True},
            "members": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "config": {"type": "str", "default": ""},
            "kubelet": {
                "type": "dict",
                "options": {
                    "files": {"type": "dict", "required": True},
                    "config_path": {"type": "path", "required": True},
                },
            },
            "rolling": {"type": "bool", "default": False},
            "allow_interruption": {"type": "bool", "default": False},
            "startup_counts": {"type": "bool", "default": False},
            "manifests_dir": {"type": "path", "default": "/etc/kubernetes/manifests"},
            "data_dir": {"type": "path", "default": "/var/lib/etcd"},
            "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "kubeadm": {"type": "str", "default": "kubeadm"},
            "runtime_endpoint": {"type": "str", "default": "unix:///var/run/containerd/containerd.sock"},
            "client_port": {"type": "int", "default": 2379},
            "metrics_port": {"type": "int", "default": 2381},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    try:
        result = take_turn(spec_of(module.params), module.check_mode)
    except EtcdError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
