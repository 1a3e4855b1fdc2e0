#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_fetch_snapshot
short_description: Copy a snapshot of etcd to the controller
version_added: 0.1.0
description:
  - Copies a snapshot piece by piece, so that neither the host nor the controller holds all of it in memory, which M(ansible.builtin.fetch) does if it
    becomes another user.
  - The description beside the snapshot, C(.json), is copied too, if there is one and it is of this snapshot.
  - The copy has mode 0600, and gets its name after its SHA-256 was compared. A file of that name is kept if it is the same.
  - An action plugin calls the module on the host for each piece.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
attributes:
  check_mode:
    description: Can run in check mode and return what would be changed, without changing anything.
    support: full
  diff_mode:
    description: Returns what has changed, or would be changed in check mode.
    support: none
  platform:
    description: Target systems.
    platforms: posix
    support: full
options:
  path:
    description: The snapshot, on the host.
    type: path
    required: true
  dest:
    description: Directory on the controller. It is created with mode 0700 if it is missing.
    type: path
    required: true
  recipient:
    description: A certificate (PEM). The snapshot and its description are encrypted to it (CMS) on the host before it travels. Empty is not encrypted.
    type: str
    default: ""
  step:
    description: Set by the action plugin.
    type: str
    choices: [prepare, read, discard]
    default: prepare
  files:
    description: Set by the action plugin.
    type: list
    elements: path
    default: []
  offset:
    description: Set by the action plugin.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Copy the snapshot to the controller
  kubeadm.etcd.etcd_fetch_snapshot:
    path: "{{ snapshot.path }}"
    dest: backups
"""

RETURN = r"""
fetched:
  description:
    - The copies on the controller. An encrypted snapshot of more than 256 MiB has several.
    - If the snapshot has a description, that is the last one.
  returned: always
  type: list
  elements: str
  sample: [/srv/backups/etcd-20261127T090000Z-r51234.db.cms, /srv/backups/etcd-20261127T090000Z-r51234.db.json.cms]
"""

import base64

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.backup import discard, prepare, read_piece
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "recipient": {"type": "str", "default": ""},
            "step": {"type": "str", "choices": ["prepare", "read", "discard"], "default": "prepare"},
            "files": {"type": "list", "elements": "path", "default": []},
            "offset": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        params = module.params
        result: dict[str, object] = {}
        if params["step"] == "prepare":
            result["files"] = prepare(params["recipient"], params["path"])
        elif params["step"] == "read":
            result["piece"] = base64.b64encode(read_piece(params["path"], params["offset"])).decode()
        else:
            discard(params["recipient"], params["files"])
        module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
