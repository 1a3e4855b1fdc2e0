# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The exception for problems that the user can solve. Any other exception is a defect of this collection."""

from __future__ import annotations


class EtcdError(Exception):
    """A problem that the user can solve. Each text says what is wrong, where, and what to do."""

    def __init__(self, *texts: str) -> None:
        super().__init__("\n".join(texts))
        self.texts = texts
