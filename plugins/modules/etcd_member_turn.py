#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member_turn
short_description: Change one etcd member of a host, its kubelet and its manifest, in one turn
version_added: 0.1.0
description:
  - Writes C(kubeadmcfg.yaml), lets kubeadm render C(etcd.yaml) of it in a dry run, compares it with the installed one by meaning, and
    installs it by rename if it differs. The order of arguments means nothing, and neither do C(initial-cluster) and C(initial-cluster-state) once the
    member has data. That alone restarts no member; it is installed with the next change that is due. A wrong mode or owner is repaired without a
    restart.
  - Writes the files of the kubelet, and restarts it only if what runs differs from what would run.
  - The image is pulled, if the runtime does not have it, before anything stops.
  - Packages (O(packages)) are fetched before anything stops, too. They are installed behind the gate, before the kubelet and etcd are restarted, so that the
    programs of a host change in one turn. They stay installed if the turn fails. In check mode they are fetched into a directory that is removed again, as
    far as the manifest that their kubeadm makes has to be known.
  - With O(turn) a cluster runs, and the member takes its turn in it. The turn holds a lock in the cluster, so that no other run changes a member
    at the same time, and begins only if the cluster can do without this member. It ends when the member is healthy again. If it does not come up, the
    manifest and the kubelet's files that it ran with before are put back, and the module fails.
  - Before a member of etcd 3.6 gets 3.7, its log is searched for entries of 3.5, which 3.7 cannot read. If there are any, the member is restarted once
    more on its present image first, until a raft snapshot is newer.
  - After the last member of an upgrade, the module waits until the cluster has agreed on the version.
  - If a member does not come up on a newer minor version of etcd, and the cluster has agreed on that version meanwhile, the former manifest is not put back.
  - With O(turn) a member that gets another address or peer port is announced to the cluster before it restarts, and
    a member whose certificate directory was removed and made again is restarted, because its container holds the former directory.
  - With O(turn=0) no cluster runs. The member is started, and the module waits until its etcd lasts. It does not wait for other members.
  - A failure has the cause in the words of the program that knows it (etcd, the kubelet, the container runtime), as soon as it is clear that waiting does
    not help.
  - The manifest before the last change is kept as C(etcd.yaml.previous) beside the kubelet's configuration.
  - One run at a time changes the member of a host. A second one waits up to two minutes for it, and fails then. A run whose controller or
    connection has ended gives up by itself, and leaves everything as it is.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  halted:
    description:
      - Why nothing must be changed any more, for example because another member has failed in this run. If it is not empty, the module fails with it
        and changes nothing.
    type: str
    default: ""
  config:
    description:
      - The kubeadm configuration that the member is to have, the same as for M(kubeadm.etcd.etcd_host_info). Options of
        M(kubeadm.etcd.kubeadm_etcd_config). Name, address, ports and directories of the member are taken from it, too.
      - An empty C(startup_timeout) means what suits the database. A member that is ready is not restarted for it.
    type: dict
    required: true
  kubelet:
    description: The kubelet that the host is to have, the same as for M(kubeadm.etcd.etcd_host_info).
    type: dict
    default: {}
    suboptions:
      cgroup_driver:
        description: Cgroup driver of the container runtime.
        type: str
        choices: [systemd, cgroupfs]
        default: systemd
      runtime_endpoint:
        description: Socket of the container runtime.
        type: str
        default: unix:///var/run/containerd/containerd.sock
      manifests_dir:
        description: Directory of static pod manifests. Made with mode 0700 if missing.
        type: path
        default: /etc/kubernetes/manifests
      config_path:
        description: Where the KubeletConfiguration stands. Its directory is that of the other files of this collection.
        type: path
        default: /etc/kubernetes/kubeadm-etcd/kubelet.yaml
      extra:
        description: Fields merged over the KubeletConfiguration.
        type: dict
        default: {}
  packages:
    description:
      - Packages that the host is to have, as NAME=VERSION, with V(*) for anything. They are installed with apt or dnf, whichever the host has. A package that
        is on hold is changed, too, and is on hold again afterwards. Nothing is removed for them, and no package is replaced by an older one.
      - The member of a cluster that is down is started with the packages that are there (RV(left)).
    type: list
    elements: str
    default: []
  parts:
    description: What of the member is changed. V(config) is C(kubeadmcfg.yaml); V(manifest) is rendered from it, and includes it.
    type: list
    elements: str
    choices: [kubelet, config, manifest]
    default: [kubelet, config, manifest]
  turn:
    description:
      - The number of the member's turn in a cluster that runs. Then all other members have to be healthy and to be a quorum without this one before
        anything is restarted, and this one has to be a healthy member again afterwards. In check mode only the first turn needs healthy members, because
        the turns before the others have not been taken.
      - For a member that runs and is not ready, a quorum of healthy others is enough. A member whose process does not run may always be changed. Without
        a quorum it is started with the manifest that is there, which stays (RV(left)).
      - With V(0), no cluster runs. The member of a cluster that exists is started with the manifest that is there, which stays (RV(left)). It is replaced
        only if etcd does not come up with it within a minute, and not if that would bring another image to data that etcd has run on.
      - If nothing differs, the member is waited for all the same, so that a run that was killed in between is
        finished by the next one.
    type: int
    default: 0
  join:
    description:
      - Whether the member joins a cluster that runs. It is added as a learner, started with the membership of that moment, and promoted when it has caught
        up, which may take half an hour. All other members have to be healthy voting members.
      - If etcd does not start, the learner is removed again, its data and manifest are kept under other names, and the module fails. If it starts and has not
        caught up in time, it stays a learner. An interrupted join is finished by the next one.
    type: bool
    default: false
  images_only:
    description:
      - Only have the runtime pull the images that the member will run, if it lacks them, and change nothing else. For what a run does before the member's
        turn, and would have done in vain without them, such as a snapshot of a large database.
    type: bool
    default: false
  allow_interruption:
    description: Change the member of a running cluster even if the cluster stops without it. It is waited for all the same.
    type: bool
    default: false
  loads_ca:
    description: Restart etcd if it trusts other CAs than ca.crt holds. It reads that file when it starts. For a rotation of the CA.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for the member.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Start a member of a new cluster
  kubeadm.etcd.etcd_member_turn:
    config:
      name: infra0
      address: 10.0.0.6
      members: "{{ members }}"

- name: Change a member of a running cluster
  kubeadm.etcd.etcd_member_turn:
    config:
      name: infra0
      address: 10.0.0.6
      members: "{{ members }}"
    turn: 1
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
left:
  description: Differences that were left, because the member was started with the manifest that was there. Run again when the cluster is healthy.
  returned: always
  type: list
  elements: str
  sample: ["etcd.yaml: --quota-backend-bytes: 2147483648 -> 8589934592"]
waited:
  description: Seconds until the member was healthy, or until its etcd lasted with O(turn=0). 0 in check mode.
  returned: always
  type: float
  sample: 14.2
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubeadm import ConfigSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import KUBELET_ARGUMENTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.service import kubelet_spec
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.join import take_join
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.trust import not_loaded
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import (
    PARTS,
    TurnSpec,
    pull_images,
    take_turn,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.packages import packages_problems, parse_packages


def spec_of(params: dict[str, Any]) -> TurnSpec:
    """The turn that the options ask for."""
    options = {key: value for key, value in params.items() if key not in ("halted", "join", "images_only", "loads_ca")}
    if params["loads_ca"]:
        options["ca_reason"] = not_loaded
    config = ConfigSpec.from_params(params["config"])
    kubelet = kubelet_spec(params["kubelet"], config.data_dir)
    typed = {"config": config, "kubelet": kubelet, "parts": tuple(params["parts"])}
    return TurnSpec(**{**options, **typed, "packages": parse_packages(params["packages"])})


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "halted": {"type": "str", "default": ""},
            "config": {"type": "dict", "required": True},
            "kubelet": {"type": "dict", "default": {}, "apply_defaults": True, "options": KUBELET_ARGUMENTS},
            "packages": {"type": "list", "elements": "str", "default": []},
            "parts": {"type": "list", "elements": "str", "choices": list(PARTS), "default": list(PARTS)},
            "turn": {"type": "int", "default": 0},
            "join": {"type": "bool", "default": False},
            "images_only": {"type": "bool", "default": False},
            "allow_interruption": {"type": "bool", "default": False},
            "loads_ca": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        if module.params["halted"]:
            module.fail_json(msg=module.params["halted"])
        problems = packages_problems("packages", module.params["packages"])
        if problems:
            module.fail_json(msg="\n".join(problems))
        act = pull_images if module.params["images_only"] else take_join if module.params["join"] else take_turn
        result = act(spec_of(module.params), module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
