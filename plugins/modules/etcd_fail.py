# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: etcd_fail
short_description: Fail with a message of several lines
version_added: 0.1.0
description:
  - Fails like M(ansible.builtin.fail), and prints the message as text, without quotes and escaped line ends, unless the callback prints for programs.
  - Runs on the controller and changes nothing. Used by the roles of this collection.
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
  text:
    description: The message.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Fail
  kubeadm.etcd.etcd_fail:
    text: |
      2 certificates wait to be signed:
        - infra0/server.crt
        - infra1/server.crt
"""

RETURN = r"""
msg:
  description: The message; its first line if it was printed as text.
  returned: always
  type: str
"""
