#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_restore_drill
short_description: Rehearse the restore of a snapshot
version_added: 0.1.0
description:
  - Restores a snapshot into a throw-away member, compares it with what was recorded of the snapshot, reads some keys, and removes it.
  - The member runs in a network namespace of its own, and listens on a unix socket that only root can reach. The cluster is not touched.
  - Fails if the snapshot cannot be restored, or if the member differs from what was recorded.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.backup
options:
  path:
    description: The snapshot, on this host. Empty is the newest one of the cluster in O(backup.dir).
    type: path
    default: ""
  source:
    description: The file on the controller that O(path) is a copy of, for messages. The revision in its name is compared. Empty is O(path).
    type: str
    default: ""
  description:
    description: What was recorded of the snapshot, as M(kubeadm.etcd.etcd_snapshot) returns it. Empty is the description beside O(path), if there is one.
    type: dict
    default: {}
  image:
    description: The image whose programs are used if no member runs on this host.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Rehearse the restore of the newest snapshot
  kubeadm.etcd.etcd_restore_drill:
    backup:
      cluster: etcd
      member: infra1
      members: "{{ members }}"
"""

RETURN = r"""
path:
  description: The snapshot.
  returned: always
  type: str
revision:
  description: Revision of the restored member.
  returned: always
  type: int
key_count:
  description: Number of keys.
  returned: always
  type: int
read:
  description: How many of them were read with their values.
  returned: always
  type: int
compared:
  description: Whether hash and number of keys were recorded, and compared.
  returned: always
  type: bool
seconds:
  description: How long the restore took until the member served.
  returned: always
  type: float
lines:
  description: The result, for people.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.drill import drill
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.rollout import check_controller
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import BACKUP_OPTION, BackupSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "backup": BACKUP_OPTION,
            "path": {"type": "path", "default": ""},
            "source": {"type": "str", "default": ""},
            "description": {"type": "dict", "default": {}},
            "image": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        spec = BackupSpec.from_params(module.params["backup"])
        params = module.params
        result = drill(spec, params["path"], params["image"], check_controller, params["source"], params["description"])
        module.exit_json(**result)


if __name__ == "__main__":
    main()
