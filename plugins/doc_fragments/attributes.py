# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What every module of the collection has in common."""

from __future__ import annotations


class ModuleDocFragment:
    """Attributes: check mode, diff mode, platform."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and return what would be changed, without changing anything.
    support: full
  diff_mode:
    description: Returns what has changed, or would be changed in check mode. Never anything of a private key.
    support: full
  platform:
    description: Target systems.
    platforms: posix
    support: full
"""
