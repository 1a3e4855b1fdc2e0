#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_member_record
short_description: Record which cluster a host's etcd member belongs to
version_added: 0.1.0
description:
  - Writes C(member.json) outside the data directory, with the name and id of the member, the id of its cluster, its data directory and the
    fingerprint of the public key of its CA, as they are read from the write-ahead log and C(ca.crt).
  - Later runs use the record to distinguish a fresh host from one with an unmounted volume, a copied or restored data directory, or a CA that was
    exchanged by hand.
  - Writes nothing until the log has seen a leader. The log of a restored snapshot must have seen one since the restore.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  name:
    description: Name of the member.
    type: str
    required: true
  data_dir:
    description: Data directory of etcd.
    type: path
    default: /var/lib/etcd
  pki_dir:
    description: Directory of the certificates.
    type: path
    default: /etc/kubernetes/pki
  work_dir:
    description: Directory of the record. Created with mode 0700 if it is missing.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
"""

EXAMPLES = r"""
- name: Record the member of this host
  kubeadm.etcd.etcd_member_record:
    name: infra0
"""

RETURN = r"""
path:
  description: The file.
  returned: always
  type: str
  sample: /etc/kubernetes/kubeadm-etcd/member.json
record:
  description: The content of the record. Empty if there is nothing to record yet.
  returned: always
  type: dict
  sample: {name: infra0, cluster_id: cdf818194e3a8c32, member_id: f5e0c1e5dc2f1ba3, data_dir: /var/lib/etcd, ca: 5a1f}
reasons:
  description: Why the file was changed, one text for each reason. Empty if it was not changed.
  returned: always
  type: list
  elements: str
  sample: ["member.json: missing"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
"""

from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.record import (
    current_record,
    read_record,
    record_reasons,
    write_record,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import stated_errors
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import record_path
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import reported


def apply(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Write the record if it differs; the module's result."""
    path = record_path(params["work_dir"])
    current = current_record(params["name"], params["data_dir"], params["pki_dir"])
    on_disk = read_record(params["work_dir"])
    reasons = record_reasons(on_disk, current)
    if current and reasons and not check_mode:
        write_record(current, params["work_dir"])
    before, after = on_disk.as_text() if on_disk else "", current.as_text() if current else ""
    return {
        **reported(reasons),
        "path": path,
        "record": asdict(current) if current else {},
        "diff": {"before_header": path, "after_header": path, "before": before, "after": after if reasons else before},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "data_dir": {"type": "path", "default": "/var/lib/etcd"},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
        },
        supports_check_mode=True,
    )
    with stated_errors(module.fail_json):
        result = apply(module.params, module.check_mode)
        module.exit_json(**result)


if __name__ == "__main__":
    main()
