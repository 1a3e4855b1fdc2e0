# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The one exception that means "tell the user", in contrast to a defect of ours."""

from __future__ import annotations


class EtcdError(Exception):
    """Something the user can act on. Each text says what is wrong, where, and what to do instead."""

    def __init__(self, *texts: str) -> None:
        super().__init__("\n".join(texts))
        self.texts = texts
