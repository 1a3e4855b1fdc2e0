# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How the timers of a host are installed, with the sources of their program that Ansible has shipped."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    Replacement,
    ensure_directory,
    replace_files,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.service import systemctl
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import timers
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.schedule import (
    directories_of,
    program_path,
    remove_schedule,
    schedule_files,
    schedule_problems,
    schedule_reasons,
    unit_of,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.snapshots import JOBS, BackupSpec
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.sources import digest, packed, program_files
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason


def set_schedule(spec: BackupSpec, check: bool) -> list[Reason]:
    """Install the timers, or remove them. Returns what was changed, or would be (check). EtcdError if systemd refuses one."""
    # What is imported is shipped.
    files = program_files(timers.__name__)
    spec = replace(spec, program=digest(files) if any(spec.schedules.values()) else "")
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
    replace_files([Replacement(program_path(spec), packed(files), 0o600), *schedule_files(spec)])
    systemctl("daemon-reload")
    units = [unit_of(job, "timer") for job in jobs]
    systemctl("enable", *units)
    # A new OnCalendar counts from here.
    systemctl("restart", *units)
    return reasons
