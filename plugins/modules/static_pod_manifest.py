#!/usr/bin/python
# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)

from __future__ import annotations

DOCUMENTATION = r"""
module: static_pod_manifest
short_description: Install the static pod manifest of one etcd member
version_added: 0.1.0
description:
  - Lets kubeadm render C(etcd.yaml) in a dry run, compares it with the one in place by meaning, and puts it there by
    rename where it differs.
  - The order of arguments means nothing, and neither do C(initial-cluster) and C(initial-cluster-state) once the member
    has data. That alone restarts nobody; it goes in with the next change that is due.
  - A wrong mode or owner is repaired without a restart.
  - The manifest before the last change is kept as C(etcd.yaml.previous) in O(work_dir). With O(rolling=true) it is put back
    where a member that ran does not come up with the new one; the module fails, and says so. A manifest that somebody
    else has changed meanwhile stays.
  - With O(rolling=true) a member that gets another address or peer port is announced to the cluster before it restarts, and
    one whose certificate directory was removed and made again is restarted, because its container holds the former one.
  - With O(rolling=true) the member of a running cluster is changed only where the cluster can do without it, and waited
    for afterwards.
  - One run at a time changes the manifest of a host, and waits for its member. A second one waits up to two minutes for it,
    and fails then. A run whose controller or connection has ended gives up by itself, and leaves the manifest as it is.
author:
  - The kubeadm.etcd maintainers (@kubeadm)
extends_documentation_fragment:
  - kubeadm.etcd.attributes
options:
  config:
    description: The kubeadm configuration as text, as M(kubeadm.etcd.kubeadm_etcd_config) returns it.
    type: str
    required: true
  manifests_dir:
    description: Directory of static pod manifests. Made with mode 0700 where it is missing.
    type: path
    default: /etc/kubernetes/manifests
  data_dir:
    description:
      - Data directory of etcd. Made with mode 0700, and kept so, unless it holds files that are not etcd's. It is never removed or renamed.
    type: path
    default: /var/lib/etcd
  work_dir:
    description: Where the manifest is staged, on the filesystem of O(manifests_dir). Made with mode 0700 if missing.
    type: path
    default: /etc/kubernetes/kubeadm-etcd
  pki_dir:
    description: Directory of the certificates. The one for health checks is used to ask the cluster.
    type: path
    default: /etc/kubernetes/pki
  kubeadm:
    description: The program.
    type: str
    default: kubeadm
  rolling:
    description:
      - Whether a cluster runs. Then all other members have to be healthy and to be a quorum without this one, before
        anything is changed, and this one has to be a healthy member again afterwards.
      - For a member that runs and is not ready, a quorum of healthy others is enough. One whose process does not run may
        always be changed.
      - With V(false), the member of a cluster that exists is started with the manifest that is there, which stays (RV(left)). It is replaced
        only if etcd does not come up with it within a minute, and not if that would bring another image to data that etcd has run on.
      - Where nothing differs, the member is waited for all the same, so that a run that was killed in between is
        finished by the next one.
    type: bool
    default: false
  allow_interruption:
    description: Change the member of a running cluster even where the cluster stops without it. It is waited for all the same.
    type: bool
    default: false
  startup_counts:
    description: Whether another startup probe alone is a reason to replace the manifest, which restarts the member.
    type: bool
    default: false
  member:
    description: Name of this member. Required with O(rolling=true).
    type: str
  members:
    description: All members of the cluster, this one included. Required with O(rolling=true).
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the member.
        type: str
        required: true
      address:
        description: IP address of the member.
        type: str
        required: true
  client_port:
    description: Port for clients.
    type: int
    default: 2379
  metrics_port:
    description: Port on the loopback address for metrics and probes.
    type: int
    default: 2381
  timeout:
    description: Seconds to wait for the member with O(rolling=true).
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Write kubeadmcfg.yaml
  kubeadm.etcd.kubeadm_etcd_config:
    name: infra0
    address: 10.0.0.6
    members: "{{ members }}"
  register: config

- name: Start a member of a new cluster
  kubeadm.etcd.static_pod_manifest:
    config: "{{ config.content }}"

- name: Change a member of a running cluster
  kubeadm.etcd.static_pod_manifest:
    config: "{{ config.content }}"
    rolling: true
    member: infra0
    members: "{{ members }}"
  throttle: 1
"""

RETURN = r"""
manifest:
  description: The manifest.
  returned: always
  type: str
  sample: /etc/kubernetes/manifests/etcd.yaml
reasons:
  description: Why something was changed, one sentence each. Empty where nothing was.
  returned: always
  type: list
  elements: str
  sample: ["etcd.yaml: --quota-backend-bytes: 2147483648 -> 8589934592"]
changes:
  description:
    - The same as RV(reasons) for programs. C(part) and C(code) are stable, C(text) is the sentence in RV(reasons), C(restarts) is whether the change
      restarts etcd.
  returned: always
  type: list
  elements: dict
  contains:
    part:
      description: What is changed.
      type: str
    code:
      description: Why, in a word.
      type: str
    text:
      description: Why, for people.
      type: str
    restarts:
      description: Whether the change restarts etcd.
      type: bool
left:
  description: Differences that were left, because the member was started with the manifest that was there. Run again when the cluster is healthy.
  returned: always
  type: list
  elements: str
  sample: ["etcd.yaml: --quota-backend-bytes: 2147483648 -> 8589934592"]
waited:
  description: Seconds until the member was healthy again. 0 without O(rolling=true) and in check mode.
  returned: always
  type: float
  sample: 14.2
"""

import contextlib
import os
import time
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import kubeadm as _kubeadm
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import log as _log
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.facts import (
    foreign_entries,
    kubelet_unit,
    process_started,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import (
    ensure_directory,
    locked,
    mode_problem,
    move_file,
    read_text,
    remove_strays,
    replace_file,
    set_mode,
    strays,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.wal import read_wal
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason, reported, texts

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700

# In the work directory: the manifest before the last change. The kubelet would read it in its own directory.
PREVIOUS = "etcd.yaml.previous"

# Another one than that of the PKI: who renews certificates need not wait for a member.
LOCK = "lock-manifest"

# Long enough for most that goes on unseen, as where a network was cut: a member comes up in half a minute, or has its
# previous manifest back in little more than one.
LOCK_PATIENCE = 120.0

# How long a member may take to come up with the manifest that is there: a host that has just booted needs half of it.
BACK_AGAIN = 60.0

# A flag that etcd refuses, or data that it cannot read, ends its process within a second or two.
LASTS = 10.0


def apply_alone(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """The same as apply, while no other run changes or waits for the member of this host."""
    with contextlib.ExitStack() as stack:
        if not check_mode:
            ensure_directory(params["work_dir"], DIRECTORY_MODE)
            # It waits again where the previous manifest is put back.
            lasts = 2 * params["timeout"] if params["rolling"] else 0
            stack.enter_context(locked(os.path.join(params["work_dir"], LOCK), LOCK_PATIENCE, lasts))
        return apply(params, check_mode)


def apply(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Render, compare, install and wait; the module's result."""
    manifests_dir, data_dir = params["manifests_dir"], params["data_dir"]
    path = os.path.join(manifests_dir, "etcd.yaml")
    wanted = _kubeadm.render_manifest(params["config"], params["kubeadm"])
    _kubeadm.check_other_pods(manifests_dir)

    before = read_text(path)
    wal = read_wal(data_dir)
    process = _rollout.find_etcd_process(params["member"]) if params["member"] else None
    stale = _rollout.stale_directory(process, params["pki_dir"])
    formed = bool(wal and wal.formed)
    content = _kubeadm.manifest_reasons(before, wanted, formed, params["startup_counts"])
    left: list[Reason] = []
    if content and before and formed and not params["rolling"]:
        # A cluster that is down is started as it was. What differs is for a run that sees it, member by member.
        waits = bool(params["member"] and not check_mode)
        if stale or not waits or starts(params["member"]) or runs_another_image(before, wanted):
            content, left = [], content
    # A directory that others share is not taken from them.
    own = [] if foreign_entries(data_dir) else [(data_dir, DIRECTORY_MODE)]
    modes = {item: mode_problem(item, mode) for item, mode in ((path, FILE_MODE), *own)}
    reasons = [
        *(
            Reason("manifest", "left-behind", f"{item}: left behind by a run that was killed")
            for item in strays(manifests_dir)
        ),
        *content,
        *(Reason("manifest", "mode", f"{item}: {problem}") for item, problem in modes.items() if problem),
        *(
            Reason("manifest", "missing", f"{item}: missing")
            for item in (manifests_dir, data_dir)
            if not os.path.isdir(item)
        ),
        *([Reason("manifest", "stale", stale, restarts=True)] if stale else []),
    ]
    restarts = any(reason.restarts for reason in reasons)

    target = None
    former: list[str] = []
    if params["rolling"]:
        members = [(item["name"], item["address"]) for item in params["members"]]
        target = _rollout.make_target(
            params["member"], members, params["client_port"], params["metrics_port"], params["pki_dir"]
        )
        if restarts and not params["allow_interruption"]:
            _rollout.check_gate(target)
    if not check_mode:
        _rollout.check_controller()
        if restarts and (process or params["rolling"]) and not kubelet_unit().active:
            raise EtcdError(
                f"{path} is left as it is: kubelet.service does not run, and would not start etcd again. `journalctl -u kubelet` says"
                " why; where this run has left it alone, run again."
            )
    if target and content and peer_urls(before) != peer_urls(wanted):
        former = _rollout.announce_peer_urls(target, process, peer_urls(wanted), check_mode)
        if former:
            text = f"membership: {', '.join(former)} -> {', '.join(peer_urls(wanted))}"
            reasons.append(Reason("manifest", "membership", text))
    installed = wanted if content else before or ""
    waited = 0.0
    if not check_mode:
        for item in (manifests_dir, data_dir):
            ensure_directory(item, DIRECTORY_MODE)
        remove_strays(manifests_dir)
        for item, mode in ((path, FILE_MODE), *own):
            if modes[item]:
                set_mode(item, mode)
        old = process if restarts else None
        if content:
            if before:
                replace_file(os.path.join(params["work_dir"], PREVIOUS), before.encode(), FILE_MODE)
            replace_file(path, wanted.encode(), FILE_MODE, staging_dir=params["work_dir"])
        elif stale and process:
            _rollout.stop(process)
        if target:
            try:
                waited = wait(target, path, installed, old, params["timeout"])
            except EtcdError as exc:
                # Only what ran before is worth having back. What was down already may come up with either.
                if isinstance(exc, _rollout.AbandonedError) or not (content and before and old):
                    raise EtcdError(f"{exc} {_rollout.WHERE_TO_LOOK}") from exc
                raise EtcdError(f"{exc} {put_back(target, path, wanted, before, former, params)}") from exc
    return {
        **reported(reasons),
        "manifest": path,
        "left": texts(left),
        "waited": round(waited, 1),
        "diff": _kubeadm.shown_diff(path, before, installed),
    }


def peer_urls(manifest: str | None) -> list[str]:
    """Where the other members reach the member of a manifest."""
    arguments = _kubeadm.manifest_arguments(manifest or "")
    return (_rollout.value_of_flag(arguments, "initial-advertise-peer-urls") or "").split(",")


def starts(name: str) -> bool:
    """Whether etcd comes up with the manifest that is there. It gets a minute; a process that lasts for ten seconds has come up.

    It need not be ready: that may take the others. EtcdError if the controller has ended meanwhile.
    """
    deadline = time.monotonic() + BACK_AGAIN
    while True:
        process = _rollout.find_etcd_process(name)
        if process and time.time() - process_started(process.pid) >= LASTS:
            return True
        if time.monotonic() > deadline:
            return False
        _rollout.check_controller()
        time.sleep(1.0)


def runs_another_image(before: str, wanted: str) -> bool:
    """Whether a manifest would bring another image to data that etcd has run on with the manifest before: an upgrade, which is rolled.

    An image that could not be pulled has never run: there is no log of it.
    """
    return _kubeadm.manifest_image(before) != _kubeadm.manifest_image(wanted) and bool(_log.log_paths(0.0))


def wait(target: _rollout.Target, path: str, installed: str, old: _rollout.Process | None, timeout: float) -> float:
    """Wait until the member runs with the manifest that we have installed; seconds."""
    command = _kubeadm.manifest_arguments(installed)
    # One that was put back may listen elsewhere.
    urls = [_rollout.client_url_of(command, target.urls[0]), *target.urls[1:]]
    target = replace(target, urls=urls, metrics=_rollout.metrics_of(command, target.metrics))
    return _rollout.wait_for_member(target, command, old, timeout, _rollout.younger_than(path))


def put_back(
    target: _rollout.Target, path: str, installed: str, previous: str, urls: list[str], params: dict[str, Any]
) -> str:
    """Install the manifest that the member ran with before, and say what became of it. urls: peer URLs to announce again.

    Where the manifest is not the one that we have installed, somebody else has gone on from here, and nothing is undone.
    """
    _rollout.check_controller()
    if read_text(path) != installed:
        return (
            f"{path} is not what this run has installed: another one, or somebody by hand, has changed it since."
            " Nothing was put back; run again."
        )
    old = _rollout.find_etcd_process(target.name)
    kept = os.path.join(params["work_dir"], PREVIOUS)
    try:
        # By a rename, which needs no space: that may be what is missing. With its age: see younger_than.
        os.utime(kept)
        move_file(kept, path)
    except (OSError, EtcdError) as exc:
        return f"The previous manifest could not be put back ({exc}). It is {kept}: move it to {path}."
    try:
        if urls:
            _rollout.announce_peer_urls(target, old, urls, check=False)
        wait(target, path, previous, old, params["timeout"])
    except EtcdError as exc:
        return f"The previous manifest was put back, and the member does not come up with it either: {exc} {_rollout.WHERE_TO_LOOK}"
    return (
        "The previous manifest was put back, and the member is healthy with it. No further member has been touched; correct what"
        " was changed, and run again."
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "str", "required": True},
            "manifests_dir": {"type": "path", "default": "/etc/kubernetes/manifests"},
            "data_dir": {"type": "path", "default": "/var/lib/etcd"},
            "work_dir": {"type": "path", "default": "/etc/kubernetes/kubeadm-etcd"},
            "pki_dir": {"type": "path", "default": "/etc/kubernetes/pki"},
            "kubeadm": {"type": "str", "default": "kubeadm"},
            "rolling": {"type": "bool", "default": False},
            "allow_interruption": {"type": "bool", "default": False},
            "startup_counts": {"type": "bool", "default": False},
            "member": {"type": "str"},
            "members": {
                "type": "list",
                "elements": "dict",
                "options": {
                    "name": {"type": "str", "required": True},
                    "address": {"type": "str", "required": True},
                },
            },
            "client_port": {"type": "int", "default": 2379},
            "metrics_port": {"type": "int", "default": 2381},
            "timeout": {"type": "int", "default": 300},
        },
        required_if=[("rolling", True, ("member", "members"))],
        supports_check_mode=True,
    )
    try:
        result = apply_alone(module.params, module.check_mode)
    except EtcdError as exc:
        module.fail_json(msg=str(exc))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
