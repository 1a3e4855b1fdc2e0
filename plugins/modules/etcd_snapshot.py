#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_snapshot
short_description: Take a verified snapshot of an etcd cluster
version_added: 0.1.0
description:
  - Has C(etcdctl) save a snapshot of the member on this host, checks its SHA-256, has C(etcdutl snapshot status) read it, and gives it its name then.
  - Both programs are those of the member's own image.
  - A file C(NAME.db.json) beside it has the revision, the hashes and the number of keys, as the member told them at that revision.
  - Removes snapshots that are not kept any more, and runs O(backup.command).
  - If anything fails, no file of that name is there, and the older snapshots are untouched.
  - Every call takes a snapshot, so the module always reports a change.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
  - kubeadm.etcd.backup
"""

EXAMPLES = r"""
- name: Take a snapshot on a host of a member
  kubeadm.etcd.etcd_snapshot:
    backup:
      cluster: etcd
      member: infra1
      members: "{{ members }}"
"""

RETURN = r"""
path:
  description: The snapshot. Empty in check mode.
  returned: always
  type: str
  sample: /var/backups/etcd/etcd-20261127T090000Z-r51234.db
snapshot:
  description: What is known of it, as in the file beside it. Empty in check mode.
  returned: always
  type: dict
  contains:
    file:
      description: Its name.
      type: str
    cluster:
      description: Name of the cluster.
      type: str
    cluster_id:
      description: Id of the cluster, hexadecimal.
      type: str
    member:
      description: The member that gave it.
      type: str
    taken:
      description: When it was taken, in Unix seconds.
      type: float
    seconds:
      description: How long that took.
      type: float
    revision:
      description: Revision of the last change in it.
      type: int
    size:
      description: Size of the database in bytes.
      type: int
    sha256:
      description: SHA-256 of the database.
      type: str
    etcd_version:
      description: Version of the member.
      type: str
    etcdutl_version:
      description: Version of the C(etcdutl) that has read it.
      type: str
    hash:
      description: Hash, as C(etcdutl snapshot status) tells it.
      type: int
    total_keys:
      description: Number of keys with all their revisions, as C(etcdutl snapshot status) tells it.
      type: int
    hash_kv:
      description: Hash of all keys up to the revision, as the member told it. 0 if it could not.
      type: int
    compact_revision:
      description: The revision up to which the member was compacted then.
      type: int
    key_count:
      description: Number of keys at the revision, as the member told it. -1 if it could not.
      type: int
    downgrade:
      description: The minor version of etcd that a downgrade went to which was under way. Empty if there was none.
      type: str
lines:
  description: The snapshot, for people.
  returned: always
  type: list
  elements: str
removed:
  description: Snapshots that were removed, since they are not kept any more.
  returned: always
  type: list
  elements: str
sent:
  description: Whether O(backup.command) has run.
  returned: always
  type: bool
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.backup import take
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.rollout import check_controller
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import BACKUP_OPTION, BackupSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors


def main() -> None:
    module = AnsibleModule(argument_spec={"backup": BACKUP_OPTION}, supports_check_mode=True)
    with stated_errors(module.fail_json):
        if module.check_mode:
            module.exit_json(changed=True, path="", snapshot={}, lines=[], removed=[], sent=False)
        result = take(BackupSpec.from_params(module.params["backup"]), check_controller)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
