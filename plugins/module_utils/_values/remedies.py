# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands in messages. Each works as printed, as root on the host of a member."""

from __future__ import annotations

_FILES = "/etc/kubernetes/pki/etcd"
ENDPOINT = "https://127.0.0.1:2379"


def etcdctl(arguments: str, endpoint: str = ENDPOINT) -> str:
    """A command line of etcdctl with the member's own certificates.

    Hosts set up by the page have no etcdctl. The command runs the one in the image of the running etcd (nsenter(1), any runtime).
    """
    return (
        f"nsenter -t $(pidof -s etcd) -m etcdctl --endpoints={endpoint} --cacert={_FILES}/ca.crt"
        f" --cert={_FILES}/healthcheck-client.crt --key={_FILES}/healthcheck-client.key {arguments}"
    )
