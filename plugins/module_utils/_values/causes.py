# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Why etcd does not start on a host: what a diagnosis returns. Apart from it, since whoever handles a cause need not load how it is found."""

from __future__ import annotations

from dataclasses import dataclass

# Codes of causes, from the lowest layer to the highest. The first cause is the one to remove.
RUNTIME, UNIT, KUBELET = "runtime", "unit", "kubelet"
MANIFEST, ADMISSION, POD, VOLUME = "manifest", "admission", "pod", "volume"
SANDBOX, IMAGE, CONTAINER = "sandbox", "image", "container"
FLAG, ENDED, MEMORY, STOPPED, COMPLAINS = "flag", "ended", "memory", "stopped", "complains"


@dataclass(frozen=True)
class Cause:
    """Why etcd does not start. program: the program that the text comes from. final: waiting does not help."""

    code: str
    program: str
    text: str
    final: bool
