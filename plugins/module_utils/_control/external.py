# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The part of a kubeadm configuration that names this etcd. Runs on the controller, pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import client_url

# Where role certificates puts the files on a control plane host.
CA_FILE, CERT_FILE, KEY_FILE = FILES = (
    "/etc/kubernetes/pki/etcd/ca.crt",
    "/etc/kubernetes/pki/apiserver-etcd-client.crt",
    "/etc/kubernetes/pki/apiserver-etcd-client.key",
)


def external_stanza(members: Iterable[Mapping[str, str]], client_port: int, version: str) -> str:
    """A ClusterConfiguration with etcd.external. members: name and address. version: that of kubeadm on the host that it is written for.

    Without kubernetesVersion, kubeadm asks the internet (cmd/kubeadm/app/util/version.go).
    """
    lines = [
        "# For `kubeadm init --config` of the first control plane host, alone or as part of your own configuration.",
        "# playbooks/control_plane.yml installs this stanza and these files on the control plane hosts:",
        *[f"#   {path}" for path in FILES],
        "apiVersion: kubeadm.k8s.io/v1beta4",
        "kind: ClusterConfiguration",
    ]
    if version:
        lines += [
            "# The version of kubeadm on this host. Without it, kubeadm looks a version up on the internet.",
            f"kubernetesVersion: {version}",
        ]
    lines += [
        "etcd:",
        "  external:",
        "    endpoints:",
        *[f"      - {client_url(member['address'], client_port)}" for member in members],
        f"    caFile: {CA_FILE}",
        f"    certFile: {CERT_FILE}",
        f"    keyFile: {KEY_FILE}",
    ]
    return "\n".join(lines) + "\n"
