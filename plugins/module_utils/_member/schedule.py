# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The timers on the hosts of all members: their files, why they differ from what is wanted, and how they are removed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    Replacement,
    read_bytes,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import run
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.service import systemctl
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import (
    BACKUP,
    DEFRAGMENT,
    DRILL,
    JOBS,
    BackupSpec,
    unsafe_directory,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.sources import digest_of_zip
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import RUN_DIR
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


def program_path(spec: BackupSpec) -> str:
    """Where the program of the timers is."""
    return os.path.join(spec.work_dir, PROGRAM)


def schedule_files(spec: BackupSpec) -> list[Replacement]:
    """The files of all timers, but for their program."""
    config, pyz = os.path.join(spec.work_dir, CONFIG), program_path(spec)
    members = [{"name": name, "address": address} for name, address in spec.members]
    text = json.dumps({**asdict(spec), "members": members}, indent=2) + "\n"
    # If it is missing, the program reports that to the journal and to Prometheus. systemd would fail before the program runs.
    writable = " ".join(in_unit(f"-{path}") for path in dict.fromkeys((*directories_of(spec), spec.work_dir)))
    files = [Replacement(config, text.encode(), 0o600)]
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
    packed = read_bytes(program_path(spec))
    if packed is None or digest_of_zip(packed) != spec.program:
        what = "missing" if packed is None else "differs"
        found.append(Reason("backup", what, f"{program_path(spec)}: {what}"))
    for file in schedule_files(spec):
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
    """What is wrong with the schedules, in systemd's words, and with the directory of the snapshots."""
    unsafe = unsafe_directory(spec.dir)
    problems = [Problem(unsafe, code="backup-directory")] if unsafe and any(spec.schedules.values()) else []
    for job, schedule in spec.schedules.items():
        done = run(["systemd-analyze", "calendar", schedule], ASKS) if schedule else None
        if done and done.code != 0:
            said = " ".join((done.stderr or done.stdout).split()) or f"systemd-analyze ended with {done.code}"
            text = f"{_ABOUT[job][1]} {schedule!r} is not an OnCalendar expression of systemd ({said})."
            problems.append(Problem(f"{text} Write for example hourly, or *-*-* 00/4:15:00.", code="backup-schedule"))
    return problems


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
