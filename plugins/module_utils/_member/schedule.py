# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The timers on the hosts of all members: their files, why they differ, and how they are installed.

The services run the very code of the modules: the sources that Ansible has shipped to the host are packed into one file that
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
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    Replacement,
    ensure_directory,
    read_bytes,
    replace_files,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.image import RUN_DIR
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import run
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.service import systemctl
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.backup import (
    BACKUP,
    DEFRAGMENT,
    DRILL,
    JOBS,
    BackupSpec,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason

UNIT_DIR = "/etc/systemd/system"

# In the work directory: what the services are to do, and their program.
CONFIG, PROGRAM = "timers.json", "timers.pyz"

# What a unit is for, and the variable with its schedule.
_ABOUT = {
    BACKUP: ("Snapshots", "etcd_backup_schedule"),
    DRILL: ("Rehearsal of a restore", "etcd_drill_schedule"),
    DEFRAGMENT: ("Defragmentation", "etcd_defragment_schedule"),
}

_PACKAGE = "ansible_collections.kubeadm.etcd.plugins.module_utils"
_IMPORT = re.compile(rf"^\s*from {re.escape(_PACKAGE)}\.(\S+) import (\([^)]*\)|[^\n]*)", re.MULTILINE)

# Seconds for systemd-analyze.
ASKS = 10.0

_SERVICE = """\
# Written by kubeadm.etcd ({variable}). Changes are lost.
[Unit]
Description={about} of the etcd cluster {cluster}
After=network-online.target kubelet.service
Wants=network-online.target
RequiresMountsFor={mounts}
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={python} -I {program} {job} {config}
UMask=0077
Nice=10
IOSchedulingClass=idle
TimeoutStartSec=8h
# It reads keys in /etc/kubernetes, runs programs of the image of etcd, and writes snapshots.
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
RuntimeDirectory={run}
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
"""

_TIMER = """\
# Written by kubeadm.etcd ({variable}). Changes are lost.
[Unit]
Description={about} of the etcd cluster {cluster}

[Timer]
OnCalendar={schedule}
# The hosts begin at different moments.
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
    """The zip application: the module _member.timers and what it imports of this collection, the same bytes for the same sources."""
    # Ansible ships what is imported anywhere in a file. Not at its top: a host without timers need not load it.
    from ansible_collections.kubeadm.etcd.plugins.module_utils._member import timers

    main = timers.__name__[len(_PACKAGE) + 1 :]
    sources: dict[str, str] = {}
    waiting = [main]
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
    files["__main__.py"] = f"import sys\n\nfrom {_PACKAGE}.{main} import main\n\nsys.exit(main(sys.argv[1:]))\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path), files[path])
    return out.getvalue()


def in_unit(path: str) -> str:
    """A path as systemd reads it in a unit (systemd.syntax(7), systemd.unit(5))."""
    return '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def directories_of(spec: BackupSpec) -> dict[str, int]:
    """The directories that the jobs write to, and the mode in which one is made."""
    return {spec.dir: 0o700, **({spec.textfile_dir: 0o755} if spec.textfile_dir else {})}


def unit_of(job: str, kind: str) -> str:
    """The name of a unit. kind: service or timer."""
    return f"kubeadm-etcd-{job}.{kind}"


def unit_path(job: str, kind: str) -> str:
    """The path of a unit."""
    return os.path.join(UNIT_DIR, unit_of(job, kind))


def schedule_files(spec: BackupSpec, packed: bytes) -> list[Replacement]:
    """The files of all timers. packed: the program."""
    config, pyz = (os.path.join(spec.work_dir, name) for name in (CONFIG, PROGRAM))
    members = [{"name": name, "address": address} for name, address in spec.members]
    text = json.dumps({**asdict(spec), "members": members}, indent=2) + "\n"
    # One that is missing is an error of the program, which says so to the journal and to Prometheus, and none of systemd before it.
    writable = " ".join(in_unit(f"-{path}") for path in dict.fromkeys((*directories_of(spec), spec.work_dir)))
    files = [Replacement(pyz, packed, 0o600), Replacement(config, text.encode(), 0o600)]
    for job, schedule in spec.schedules.items():
        about, variable = _ABOUT[job]
        values = {
            "cluster": spec.cluster,
            "python": sys.executable,
            "program": in_unit(pyz),
            "config": in_unit(config),
            "mounts": in_unit(spec.dir),
            "job": job,
            "schedule": schedule,
            "writable": writable,
            "run": os.path.basename(RUN_DIR),
            "about": about,
            "variable": variable,
        }
        for kind, template in (("service", _SERVICE), ("timer", _TIMER)) if schedule else ():
            files.append(Replacement(unit_path(job, kind), template.format(**values).encode(), 0o644))
    return files


def present_files(work_dir: str, jobs: Iterable[str] = JOBS) -> list[str]:
    """The files of timers that a host has. jobs: not those of others, and program and configuration only if it is all of them."""
    paths = [unit_path(job, kind) for job in jobs for kind in ("timer", "service")]
    paths += [os.path.join(work_dir, name) for name in (CONFIG, PROGRAM)] if tuple(jobs) == JOBS else []
    return [path for path in paths if os.path.lexists(path)]


def schedule_reasons(spec: BackupSpec) -> list[Reason]:
    """Why the timers of a host are not as wanted."""
    found = []
    for job, schedule in spec.schedules.items():
        there, timer = present_files(spec.work_dir, [job]), unit_of(job, "timer")
        if there and not schedule:
            found.append(Reason("backup", "removed", f"{timer}: removed, since {_ABOUT[job][1]} is empty"))
        elif schedule and not there:
            found.append(Reason("backup", "new", f"{timer} is installed: {schedule}"))
    jobs = [job for job, schedule in spec.schedules.items() if schedule]
    known = [job for job in jobs if present_files(spec.work_dir, [job])]
    if not known:
        return found
    new = [unit_path(job, kind) for job in jobs if job not in known for kind in ("service", "timer")]
    for file in schedule_files(spec, program()):
        data = None if file.path in new else read_bytes(file.path)
        if data is None and file.path not in new:
            found.append(Reason("backup", "missing", f"{file.path}: missing"))
        # With a timer that comes or goes, the configuration does.
        elif data not in (None, file.data) and not found:
            found.append(Reason("backup", "differs", f"{file.path}: differs"))
    found += [
        Reason("backup", "no-directory", f"{path}: missing, so timers cannot write to it")
        for path in (directories_of(spec) if not found else ())
        if not os.path.isdir(path)
    ]
    for job in known if not found else ():
        if run(["systemctl", "is-active", "--quiet", unit_of(job, "timer")], ASKS).code != 0:
            found.append(Reason("backup", "inactive", f"{unit_of(job, 'timer')} is not active"))
    return found


def schedule_problems(spec: BackupSpec) -> list[Problem]:
    """What is wrong with the schedules, in systemd's words."""
    problems = []
    for job, schedule in spec.schedules.items():
        done = run(["systemd-analyze", "calendar", schedule], ASKS) if schedule else None
        if done and done.code != 0:
            said = " ".join((done.stderr or done.stdout).split()) or f"systemd-analyze ended with {done.code}"
            text = f"{_ABOUT[job][1]} {schedule!r} is not an OnCalendar expression of systemd ({said})."
            problems.append(Problem(f"{text} Write for example hourly, or *-*-* 00/4:15:00.", code="backup-schedule"))
    return problems


def set_schedule(spec: BackupSpec, check: bool) -> list[Reason]:
    """Install the timers, or remove them. Returns what was changed, or would be (check). EtcdError if systemd refuses one."""
    reasons = schedule_reasons(spec)
    if check or not reasons:
        return reasons
    problems = schedule_problems(spec)
    if problems:
        raise EtcdError(" ".join(problem.text for problem in problems))
    jobs = [job for job, schedule in spec.schedules.items() if schedule]
    remove_schedule(spec.work_dir, [job for job in JOBS if job not in jobs] if jobs else JOBS)
    if not jobs:
        return reasons
    # The units may write below these only, so they have to be there.
    for directory, mode in directories_of(spec).items():
        ensure_directory(directory, mode)
    replace_files(schedule_files(spec, program()))
    systemctl("daemon-reload")
    timers = [unit_of(job, "timer") for job in jobs]
    systemctl("enable", *timers)
    # A new OnCalendar counts from here.
    systemctl("restart", *timers)
    return reasons


def remove_schedule(work_dir: str, jobs: Iterable[str] = JOBS) -> None:
    """Stop timers, and remove their files. Snapshots stay."""
    there = present_files(work_dir, jobs)
    timers = [unit_of(job, "timer") for job in jobs if unit_path(job, "timer") in there]
    if timers:
        systemctl("disable", "--now", *timers)
    for path in there:
        os.unlink(path)
    if there:
        systemctl("daemon-reload")
