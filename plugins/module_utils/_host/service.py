# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""kubelet.service: write its files, start it, and check it. The content of the files is in kubelet.py."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    Replacement,
    ensure_directory,
    read_text,
    replace_files,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubelet import (
    KUBELET_ARGUMENTS,
    KubeletSpec,
    Unit,
    file_reasons,
    kubelet_config,
    restart_reasons,
    unit_reasons,
    wanted_files,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import printable
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import minor_of

FILE_MODE = 0o644

# The kubelet's health endpoint. etcd_kubelet_config must not change it.
HEALTHZ = ("127.0.0.1", 10248)

# Timeout for systemctl: systemd stops the old kubelet first, and waits for its ExecStartPre.
START = 120.0

# The number of lines of the kubelet's log to show.
SHOWN = 8


@dataclass(frozen=True)
class KubeletState:
    """The state of the kubelet.

    files, found: wanted and present texts, by path (None: no file). reasons: all differences, restart: those that need a restart.
    """

    unit: Unit
    files: Mapping[str, str]
    found: Mapping[str, str | None]
    reasons: list[Reason]
    restart: list[Reason]

    @property
    def differing(self) -> dict[str, str]:
        """The files that have to be written."""
        return {path: text for path, text in self.files.items() if self.found[path] != text}


def kubelet_spec(wanted: Mapping[str, Any], data_dir: str) -> KubeletSpec:
    """The wanted kubelet of this host. wanted: see KUBELET_ARGUMENTS."""
    return KubeletSpec(
        **{key: wanted[key] for key in KUBELET_ARGUMENTS},
        program=shutil.which("kubelet") or "/usr/bin/kubelet",
        # systemd treats mounts below a symbolic link and below its target separately.
        data_dirs=tuple(dict.fromkeys((data_dir, os.path.realpath(data_dir)))),
    )


def kubelet_files(spec: KubeletSpec, version: str | None, cgroups: int) -> dict[str, str]:
    """The wanted files for a kubelet of this version. cgroups: the cgroup version of this host."""
    return wanted_files(spec, kubelet_config(spec, minor_of(version) or 0, cgroups == 1))


def kubelet_state(spec: KubeletSpec, files: dict[str, str]) -> KubeletState:
    """Compare the kubelet's files and its running process with the wanted ones."""
    unit, path = _host.kubelet_unit(), spec.config_path
    found = {item: read_text(item) for item in files}
    before = found[path]
    written = 0.0 if before is None else os.stat(path).st_mtime
    restart = restart_reasons(unit, path, files[path], before, written, time.time())
    missing = []
    if not os.path.isdir(spec.manifests_dir):
        missing = [Reason("kubelet", "missing", f"{spec.manifests_dir}: missing")]
        # A kubelet that starts without the directory only polls every 20 s (measured: 24 s instead of 7 s until etcd runs).
        text = "kubelet.service: started without the manifests directory"
        restart.append(Reason("kubelet", "without-directory", text))
    return KubeletState(
        unit, files, found, [*file_reasons(files, found), *unit_reasons(unit), *missing, *restart], restart
    )


@dataclass(frozen=True)
class KeptFile:
    """A saved file. text: None if it did not exist."""

    text: str | None
    mode: int


def keep(paths: list[str]) -> dict[str, KeptFile]:
    """Save the present files, so that put_back can restore them."""
    return {path: KeptFile(read_text(path), _mode_of(path)) for path in paths}


def _mode_of(path: str) -> int:
    return os.stat(path).st_mode & 0o7777 if os.path.exists(path) else FILE_MODE


def write(files: Mapping[str, str]) -> None:
    """Write the kubelet's files, all or none."""
    for path in files:
        ensure_directory(os.path.dirname(path), 0o755)
    replace_files([Replacement(path, text.encode(), FILE_MODE) for path, text in files.items()])


def put_back(files: Mapping[str, KeptFile]) -> None:
    """Restore the saved files."""
    replace_files(
        [Replacement(path, item.text.encode(), item.mode) for path, item in files.items() if item.text is not None]
    )
    for path, item in files.items():
        if item.text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def start(restart: bool) -> None:
    """Reload systemd and enable the kubelet; restart: also restart it now, or start it."""
    systemctl("daemon-reload")
    systemctl("enable", "kubelet.service")
    if restart:
        systemctl("restart", "kubelet.service")


def stop() -> None:
    """Stop the kubelet, and keep it from starting at boot."""
    systemctl("disable", "--now", "kubelet.service")


def systemctl(*words: str) -> None:
    """Run systemctl. EtcdError if it fails."""
    done = run(["systemctl", *words], START)
    if done.code != 0:
        unit = words[-1] if len(words) > 1 else "kubelet"
        raise EtcdError(
            f"`systemctl {' '.join(words)}` failed: {' '.join(done.stderr.split())[:400]} See `systemctl status {unit}` on this host."
        )


def ask(address: tuple[str, int] = HEALTHZ) -> int:
    """The HTTP status of the kubelet's health endpoint; 0 if it does not answer. Ignores proxies."""
    connection = http.client.HTTPConnection(*address, timeout=5.0)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def is_healthy() -> bool:
    """Whether the kubelet reports that it is healthy."""
    return ask() == http.client.OK


def answers() -> bool:
    """Whether the kubelet's health endpoint answers, healthy or not."""
    return ask() > 0


def last_lines(since: float) -> str:
    """The last lines of the kubelet's journal since then, for the end of a message.

    Only its errors (klog), if there are any: the very last lines may be from another start.
    """
    command = [
        "journalctl",
        "--unit=kubelet.service",
        f"--since=@{since:.3f}",
        "--lines=200",
        "--output=cat",
        "--quiet",
        "--no-pager",
    ]
    lines = run(command, 10.0).stdout.splitlines()
    errors = [line for line in lines if re.match(r"[EF]\d{4} ", line)]
    return "\nFrom `journalctl -u kubelet`:" + "".join(
        f"\n  {printable(line)[:500]}" for line in (errors or lines)[-SHOWN:]
    )
