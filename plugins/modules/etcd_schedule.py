#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_schedule
short_description: Install timers for snapshots, restore rehearsals and defragmentation of an etcd cluster
version_added: 0.1.0
description:
  - Installs C(kubeadm-etcd-backup.timer), C(kubeadm-etcd-drill.timer) and C(kubeadm-etcd-defragment.timer) with their services. A timer whose
    schedule is empty is removed. The services need Python, and nothing of Ansible.
  - The timers run on the hosts of all members. Each time, the healthy follower with the lowest name takes the snapshot, as
    M(kubeadm.etcd.etcd_snapshot) does it, and the others do not. Each host rehearses the restore of its newest snapshot, as
    M(kubeadm.etcd.etcd_restore_drill) does it, once for each snapshot. Each host defragments its member if that is due, as
    M(kubeadm.etcd.etcd_member_defragment) does it, the leader after the others.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.backup
"""

EXAMPLES = r"""
- name: Take a snapshot every four hours, and rehearse a restore every Sunday
  kubeadm.etcd.etcd_schedule:
    backup:
      cluster: etcd
      member: infra1
      members: "{{ members }}"
      schedule: "*-*-* 00/4:15:00"
      drill_schedule: Sun 03:00
"""

RETURN = r"""
reasons:
  description: What was changed, one sentence each. Empty if nothing was.
  returned: always
  type: list
  elements: str
  sample: ["/etc/systemd/system/kubeadm-etcd-backup.timer: missing"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.set_schedule import set_schedule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import BACKUP_OPTION, BackupSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import reported


def main() -> None:
    module = AnsibleModule(argument_spec={"backup": BACKUP_OPTION}, supports_check_mode=True)
    with stated_errors(module.fail_json):
        reasons = set_schedule(BackupSpec.from_params(module.params["backup"]), module.check_mode)
        module.exit_json(**reported(reasons))


if __name__ == "__main__":
    main()
