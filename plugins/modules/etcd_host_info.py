#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_host_info
short_description: Observe one host of an etcd cluster
version_added: 0.1.0
description:
  - Looks at a host once and returns what is true of it, and for each part that a role of this collection owns the
    reasons why it differs from what is wanted. Changes nothing.
  - The same functions decide here and in the modules that act, so a part without reasons here needs no further call.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  name:
    description: Name of the member that this host is, or is to be.
    type: str
    required: true
  asked_at:
    description:
      - When the controller asked, in seconds since the epoch by its own clock. The facts then have C(clock_offset), which is how far
        the host is ahead. It can be compared between hosts that were not asked at the same time.
    type: float
  address:
    description: IP address of the member. Empty if it is not known yet. Then only the host itself is observed.
    type: str
    default: ""
  member:
    description: Whether this host is, or is to be, a member. For any other host, only RV(facts) and RV(pki) are returned.
    type: bool
    default: true
  members:
    description: All expected members of the cluster.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the member.
        type: str
        required: true
      address:
        description: IP address of the member.
        type: str
        required: true
  pki:
    description: The certificates that the host is to have. Options of M(kubeadm.etcd.etcd_pki).
    type: dict
    default: {}
  config:
    description:
      - The kubeadm configuration that the host is to have. Options of M(kubeadm.etcd.kubeadm_etcd_config), as for M(kubeadm.etcd.etcd_member_turn).
      - Without C(name) only C(data_dir) and the ports are used, and neither kubeadmcfg.yaml nor the manifest is compared.
    type: dict
    default: {}
  kubelet:
    description: The kubelet that the host is to have, as for M(kubeadm.etcd.etcd_member_turn).
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
        description: Directory of static pod manifests.
        type: path
        default: /etc/kubernetes/manifests
      config_path:
        description: Where the KubeletConfiguration stands.
        type: path
        default: /etc/kubernetes/kubeadm-etcd/kubelet.yaml
      extra:
        description: Fields merged over the KubeletConfiguration.
        type: dict
        default: {}
  packages:
    description:
      - Packages that the host is to have, as for M(kubeadm.etcd.etcd_member_turn). If any has to be installed, C(kubeadm_version), C(kubelet_version),
        RV(config) and the reasons are those of the host with it. For that, the package of kubeadm is fetched into a directory that is removed again.
    type: list
    elements: str
    default: []
  backup:
    description: The snapshots that are wanted on the host. As for M(kubeadm.etcd.etcd_snapshot). Without them, nothing of snapshots is looked at.
    type: dict
    default: {}
  health:
    description:
      - How the health of the cluster is judged, C(renewal_window) and C(quota) as for M(kubeadm.etcd.etcd_health). Empty if the members are not asked for it.
      - They are asked if the member of this host is ready and nothing on this host differs from what is wanted.
    type: dict
    default: {}
  reads_log:
    description:
      - Whether the log of a member that runs etcd 3.6 is searched for entries that etcd 3.7 cannot read, although O(config) has no 3.7. It costs as much as
        reading some 64 MiB.
    type: bool
    default: false
  apiserver:
    description: Of a control plane host, where kube-apiserver has its files, and whether the run may change it. Options of M(kubeadm.etcd.etcd_apiserver).
    type: dict
    default: {}
    suboptions:
      update:
        description: Whether kube-apiserver may be given other endpoints of etcd, so that its manifest is compared with what kubeadm renders.
        type: bool
        default: false
      manifests_dir:
        description: Directory of static pod manifests.
        type: path
        default: /etc/kubernetes/manifests
      work_dir:
        description: Directory of this collection.
        type: path
        default: /etc/kubernetes/kubeadm-etcd
      runtime_endpoint:
        description: Socket of the container runtime.
        type: str
        default: unix:///var/run/containerd/containerd.sock
      kubeadm:
        description: The program kubeadm.
        type: str
        default: kubeadm
  install_dependencies:
    description: Whether the run installs the package of the library cryptography, for the message about a Python without it.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Observe an etcd host
  kubeadm.etcd.etcd_host_info:
    name: infra0
    address: 10.0.0.6
    members:
      - name: infra0
        address: 10.0.0.6
      - name: infra1
        address: 10.0.0.7
      - name: infra2
        address: 10.0.0.8
  register: host
"""

RETURN = r"""
facts:
  description: The host itself - programs, addresses, listeners, runtime, disk, clock, leftovers.
  returned: always
  type: dict
etcd:
  description:
    - The member on this host - whether it has data (C(has_data)) that ever had a leader (C(formed)), runs and is C(ready), leads
      (C(leader)), C(answers) clients, its C(cluster_id) and C(member_id), and the membership as it, or else one of the other members, tells it
      (C(members), of the cluster C(members_of)).
    - Why it has to restart, or is about to (C(stale), C(pending)). Whether its manifest is that of a cluster that has been founded
      (C(founded)), and whether its peers would have to look for it elsewhere with the wanted manifest (C(moved)).
    - Which CA it trusts, compared with ca.crt (C(trusts) - installed; earlier, a former certificate of the same CA; former; untrusted, if it
      refuses certificates that ca.crt has not signed; unproven, if no certificate is left that could prove it;
      unknown). Addresses at which it is known and which it is about to leave (C(known_addresses)).
    - Its C(version), if it answers, and the C(cluster_version), the version that a downgrade goes to which is enabled (C(downgrade), empty if there is
      none), the C(image) of its manifest, and how many entries of its log etcd 3.7 could not read (C(unreadable)). They are not looked for if the
      member runs another version than 3.6.
    - The CAs that it reports as loaded (C(trusted), hashes of their names; none if it does not report them).
    - Its database (C(database)), if it answers - C(size), C(in_use) and C(quota) in bytes, the C(revision) of its keys, and with the alarm NOSPACE the revision
      that kube-apiserver would compact to next (C(next_compaction)).
  returned: for members
  type: dict
pki:
  description:
    - Certificates as they are. Certificates only, never a key.
    - Of ca.crt also what a renewal of it keeps (C(ca_id)), the kinds of the certificates that it has not signed (C(foreign)), and whether a member
      could start with its certificates as they are (C(usable)).
    - For a rotation of the CA, every certificate in ca.crt (C(cas)) and when it was written (C(ca_written)), the CA that takes over (C(next_ca)), and
      those that the host had before (C(former_cas)). Each has C(id), C(fingerprint), C(key), C(name) and C(subject).
  returned: always
  type: dict
kubelet:
  description:
    - Why the kubelet has to be restarted (C(restart)); without such a reason, files are written and systemd reads them, and the kubelet goes on.
      What is allowed but not advised (C(warnings)).
    - Whether the kubelet does not run because the member has a record and its data is missing (C(held)).
  returned: for members
  type: dict
config:
  description:
    - Of the wanted kubeadm configuration, the Kubernetes version, the image and its tag (C(image_tag), empty if kubeadm chooses it), and the Kubernetes version
      of the installed one (C(installed_version)). Empty if it is invalid, or cannot be rendered.
  returned: for members
  type: dict
apiserver:
  description:
    - kube-apiserver as its manifest has it, none if there is no such manifest - how it reaches etcd (C(access)), its C(url), why it is not ready
      (C(unready)), or does not run as its manifest says (C(pending)), and when its process began (C(started)).
    - What the ConfigMap kubeadm-config says of etcd (C(config), none if it could not be read; C(config_uid)), and the C(cluster_id) and C(members) of the
      etcd that it uses.
    - Why it must not be changed (C(problem)), whether the run may change it (C(updates)), and the C(client_port) of the members.
  returned: for control plane hosts
  type: dict
images:
  description: Images that the runtime has. None if it cannot be asked.
  returned: for members
  type: list
  elements: str
reasons:
  description:
    - For each part (packages, kubelet, ca, certificates, config, manifest, record) the reasons why it differs from what is wanted. Empty lists if it does not.
    - Each reason has C(part), C(code) (stable, for programs), C(text) (for people) and C(restarts), whether the change restarts etcd.
  returned: always
  type: dict
  sample:
    kubelet: []
    manifest:
      - part: manifest
        code: flag
        text: "etcd.yaml: --quota-backend-bytes: 2147483648 -> 8589934592"
        restarts: true
health:
  description: C(verdict) and C(table) of the cluster, as M(kubeadm.etcd.etcd_health) returns them for one look. None if the members were not asked.
  returned: of a member
  type: dict
problems:
  description: What is wrong, as far as this host alone can tell (C(text)), and the steps that it stops (C(stops), of found, start, restart and sign).
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import PLACES_ARGUMENTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import KUBELET_ARGUMENTS
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.observe import observe
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "asked_at": {"type": "float"},
            "address": {"type": "str", "default": ""},
            "member": {"type": "bool", "default": True},
            "members": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "pki": {"type": "dict", "default": {}},
            "config": {"type": "dict", "default": {}},
            "kubelet": {"type": "dict", "default": {}, "apply_defaults": True, "options": KUBELET_ARGUMENTS},
            "packages": {"type": "list", "elements": "str", "default": []},
            "backup": {"type": "dict", "default": {}},
            "apiserver": {
                "type": "dict",
                "default": {},
                "apply_defaults": True,
                "options": {"update": {"type": "bool", "default": False}, **PLACES_ARGUMENTS},
            },
            "health": {"type": "dict", "default": {}},
            "reads_log": {"type": "bool", "default": False},
            "install_dependencies": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = observe(module.params)
        module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
