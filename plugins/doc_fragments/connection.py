# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How etcd is reached."""

from __future__ import annotations


class ModuleDocFragment:
    """Options of a connection to etcd."""

    DOCUMENTATION = r"""
options:
  client_port:
    description: Client port of the members.
    type: int
    default: 2379
  ca:
    description: File with the CA certificate, on the host where the module runs.
    type: path
    default: /etc/kubernetes/pki/etcd/ca.crt
  cert:
    description: File with a client certificate.
    type: path
    default: /etc/kubernetes/pki/etcd/healthcheck-client.crt
  key:
    description: File with the private key of O(cert).
    type: path
    default: /etc/kubernetes/pki/etcd/healthcheck-client.key
"""
