# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Commands that messages tell people to run. They run as they are printed, as root on a host of a member."""

from __future__ import annotations

_FILES = "/etc/kubernetes/pki/etcd"
ENDPOINT = "https://127.0.0.1:2379"


def etcdctl(arguments: str, endpoint: str = ENDPOINT) -> str:
    """A command line of etcdctl with the member's own certificates.

    The hosts of the page have no etcdctl: it is run out of the image of the etcd that runs there (nsenter(1), any runtime).
    """
    return (
        f"nsenter -t $(pidof -s etcd) -m etcdctl --endpoints={endpoint} --cacert={_FILES}/ca.crt"
        f" --cert={_FILES}/healthcheck-client.crt --key={_FILES}/healthcheck-client.key {arguments}"
    )
