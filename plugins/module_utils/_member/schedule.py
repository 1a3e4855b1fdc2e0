# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The timer that takes snapshots on the hosts of all members: its files, why they differ, and how they are installed.

The service runs the very code of the module etcd_snapshot: the sources that Ansible has shipped to the host are packed into one file that
Python runs (a zip application), so nothing of Ansible has to be installed there.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    Replacement,
    ensure_directory,
    read_bytes,
    replace_files,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import run
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.service import systemctl
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.backup import BackupSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

UNIT = "kubeadm-etcd-backup"
UNIT_DIR = "/etc/systemd/system"
SERVICE, TIMER = (os.path.join(UNIT_DIR, f"{UNIT}.{kind}") for kind in ("service", "timer"))

# In the work directory: what the service is to do, and its program.
CONFIG, PROGRAM = "backup.json", "backup.pyz"

_PACKAGE = "ansible_collections.kubeadm.etcd.plugins.module_utils"
_MAIN = "_member.backup"
_IMPORT = re.compile(rf"^\s*from {re.escape(_PACKAGE)}\.(\S+) import (\([^)]*\)|[^\n]*)", re.MULTILINE)

# Seconds for systemd-analyze.
ASKS = 10.0

_SERVICE = """\
# Written by kubeadm.etcd (etcd_backup_schedule). Changes are lost.
[Unit]
Description=Snapshot of the etcd cluster {cluster}
After=network-online.target kubelet.service
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={python} -I {program} {config}
UMask=0077
Nice=10
IOSchedulingClass=idle
TimeoutStartSec=8h
# It reads keys in /etc/kubernetes, looks into the container of etcd for etcdutl, and writes snapshots.
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
ReadWritePaths={writable}
"""

_TIMER = """\
# Written by kubeadm.etcd (etcd_backup_schedule). Changes are lost.
[Unit]
Description=Snapshots of the etcd cluster {cluster}

[Timer]
OnCalendar={schedule}
# The hosts ask at different moments, and only one of them takes the snapshot.
RandomizedDelaySec=60
Persistent=yes

[Install]
WantedBy=timers.target
"""


def source_text(name: str) -> str | None:
    """The source of a module of this collection, below module_utils; None if there is no such module."""
    try:
        spec = importlib.util.find_spec(f"{_PACKAGE}.{name}")
        loader: Any = spec.loader if spec else None
        text = loader.get_source(f"{_PACKAGE}.{name}") if loader else None
    except (ImportError, AttributeError, OSError):
        return None
    return str(text) if text else None


def program(source: Callable[[str], str | None] = source_text) -> bytes:
    """The zip application: the module _member.backup and what it imports of this collection, the same bytes for the same sources."""
    sources: dict[str, str] = {}
    waiting = [_MAIN]
    while waiting:
        name = waiting.pop()
        text = None if name in sources else source(name)
        if text is None:
            continue
        sources[name] = text
        for module, names in _IMPORT.findall(text):
            # Either a module, or modules of a package.
            waiting += [
                module,
                *(f"{module}.{item.split()[0]}" for item in names.strip("()").split(",") if item.strip()),
            ]
    files = {}
    for name, text in sources.items():
        *packages, module = f"{_PACKAGE}.{name}".split(".")
        files["/".join([*packages, f"{module}.py"])] = text
        files.update({"/".join([*packages[: depth + 1], "__init__.py"]): "" for depth in range(len(packages))})
    files["__main__.py"] = f"import sys\n\nfrom {_PACKAGE}.{_MAIN} import main\n\nsys.exit(main(sys.argv[1:]))\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path), files[path])
    return out.getvalue()


def schedule_files(spec: BackupSpec, work_dir: str, packed: bytes) -> list[Replacement]:
    """The files of the timer. packed: the program."""
    config, pyz = os.path.join(work_dir, CONFIG), os.path.join(work_dir, PROGRAM)
    members = [{"name": name, "address": address} for name, address in spec.members]
    text = json.dumps({**asdict(spec), "members": members}, indent=2) + "\n"
    writable = " ".join(dict.fromkeys(filter(None, (spec.dir, spec.textfile_dir))))
    values = {
        "cluster": spec.cluster,
        "python": sys.executable,
        "program": pyz,
        "config": config,
        "schedule": spec.schedule,
        "writable": writable,
    }
    return [
        Replacement(pyz, packed, 0o600),
        Replacement(config, text.encode(), 0o600),
        Replacement(SERVICE, _SERVICE.format(**values).encode(), 0o644),
        Replacement(TIMER, _TIMER.format(**values).encode(), 0o644),
    ]


def present_files(work_dir: str) -> list[str]:
    """The files of the timer that a host has."""
    paths = [TIMER, SERVICE, *(os.path.join(work_dir, name) for name in (CONFIG, PROGRAM))]
    return [path for path in paths if os.path.lexists(path)]


def schedule_reasons(spec: BackupSpec, work_dir: str) -> list[Reason]:
    """Why the timer of a host is not as wanted."""
    if not spec.schedule:
        gone = f"the timer {UNIT}: removed, since etcd_backup_schedule is empty"
        return [Reason("backup", "removed", gone)] if present_files(work_dir) else []
    if not present_files(work_dir):
        return [Reason("backup", "new", f"the timer {UNIT} is installed: {spec.schedule}")]
    found = []
    for file in schedule_files(spec, work_dir, program()):
        data = read_bytes(file.path)
        if data is None:
            found.append(Reason("backup", "missing", f"{file.path}: missing"))
        elif data != file.data:
            found.append(Reason("backup", "differs", f"{file.path}: differs"))
    if not found and run(["systemctl", "is-active", "--quiet", f"{UNIT}.timer"], ASKS).code != 0:
        found.append(Reason("backup", "inactive", f"the timer {UNIT} is not active"))
    return found


def schedule_problems(spec: BackupSpec) -> list[Problem]:
    """What is wrong with the schedule, in systemd's words."""
    if not spec.schedule:
        return []
    done = run(["systemd-analyze", "calendar", spec.schedule], ASKS)
    if done.code == 0:
        return []
    said = " ".join((done.stderr or done.stdout).split()) or f"systemd-analyze ended with {done.code}"
    text = f"etcd_backup_schedule {spec.schedule!r} is not an OnCalendar expression of systemd ({said})."
    return [Problem(f"{text} Write for example hourly, or *-*-* 00/4:15:00.", code="backup-schedule")]


def set_schedule(spec: BackupSpec, work_dir: str, check: bool) -> list[Reason]:
    """Install the timer, or remove it. Returns what was changed, or would be (check). EtcdError if systemd refuses it."""
    reasons = schedule_reasons(spec, work_dir)
    if check or not reasons:
        return reasons
    problems = schedule_problems(spec)
    if problems:
        raise EtcdError(problems[0].text)
    if not spec.schedule:
        remove_schedule(work_dir)
        return reasons
    # The unit may write below these only, so they have to be there.
    for directory in filter(None, (spec.dir, spec.textfile_dir)):
        ensure_directory(directory, 0o700 if directory == spec.dir else 0o755)
    replace_files(schedule_files(spec, work_dir, program()))
    systemctl("daemon-reload")
    systemctl("enable", f"{UNIT}.timer")
    # A new OnCalendar counts from here.
    systemctl("restart", f"{UNIT}.timer")
    return reasons


def remove_schedule(work_dir: str) -> None:
    """Stop the timer, and remove its files. Snapshots stay."""
    there = present_files(work_dir)
    if TIMER in there:
        systemctl("disable", "--now", f"{UNIT}.timer")
    for path in there:
        os.unlink(path)
    if there:
        systemctl("daemon-reload")
