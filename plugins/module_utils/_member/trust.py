# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which CAs a running member has loaded. It reads ca.crt once, when it starts, and names them whenever it asks for a certificate."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import trusted_names
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import process_started
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import read_or_say
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.processes import (
    Process,
    client_url_of,
    value_of_flag,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki.x509 import common_name, load_certificates, name_id


def client_port_of(process: Process, pki_dir: str) -> tuple[str, int] | None:
    """Where a member asks clients for certificates of the CAs in ca.crt; None if it does not, or if that is not known."""
    checks = [value_of_flag(process.argv, flag) for flag in ("client-cert-auth", "trusted-ca-file")]
    try:
        url = urlsplit(client_url_of(process.argv, ""))
        host, port = url.hostname or "", url.port or 2379
    except ValueError:
        return None
    return (host, port) if host and checks == ["true", os.path.join(pki_dir, "etcd/ca.crt")] else None


def trusted_by(process: Process | None, pki_dir: str) -> list[str] | None:
    """Names of the CAs that a member has loaded (trusted_names); None if it does not say."""
    place = client_port_of(process, pki_dir) if process else None
    return trusted_names(*place) if place else None


def not_loaded(process: Process | None, pki_dir: str) -> str:
    """Why a running member has to be restarted to trust what ca.crt holds, no more and no less; empty if it need not be."""
    if process is None:
        return ""
    path = os.path.join(pki_dir, "etcd/ca.crt")
    stored = load_certificates(read_or_say(path)[0])
    has_names = trusted_by(process, pki_dir) == sorted({*map(name_id, stored)})
    # Names are the same of a renewed certificate, and may be of a CA that was put there by hand. Then the later one counts.
    if has_names and process_started(process.pid) > os.stat(path).st_ctime:
        return ""
    names = " and ".join(common_name(item.subject) for item in stored)
    return f"etcd: is restarted to trust {names or 'what ca.crt holds'}, and no other CA"
