# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Upgrades: which version of etcd each member runs and is to run, and why one must not follow the other. Runs on the controller, pure.

The rules are data of `_values/versions.py`. Which flags a version knows is decided on the hosts (`_host/kubeadm.py`), since the installed kubeadm
writes most of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import BOOTSTRAP, ROLLING, Decision
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of, membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import (
    RESTART,
    START,
    Problem,
    merged,
    note,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import (
    BEFORE_MINOR,
    WITHOUT_FORMER_API,
    EtcdVersion,
    etcd_version_in,
    etcd_version_of,
    minor_of,
)

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]

STOPS = (START, RESTART)


@dataclass(frozen=True)
class Change:
    """The etcd of one member. runs: its version; of one that does not answer, that of its manifest. image: the wanted one, and who chose it."""

    host: str
    runs: EtcdVersion
    wanted: EtcdVersion
    image: str
    chosen_by: str


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade means for a run. is_due: whether a member that runs gets another version. lines: for the plan."""

    is_due: bool = False
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


def upgrade(cluster: Cluster, observations: Observations, decision: Decision, back_to: str = "") -> Upgrade:
    """Which members get another version of etcd with a plan, and why they must not. A cluster that is down is started as it was.

    back_to: the minor version that a downgrade goes to, '' without one (downgrade.py).
    """
    if decision.action == BOOTSTRAP:
        return Upgrade(lines=merged(note(f"etcd: {choice(item)}", host) for host, item in wanted_images(observations)))
    if decision.action != ROLLING:
        return Upgrade()
    members = {host: observations[host] for host in decision.order if host not in decision.join}
    changes = [change for host, item in members.items() for change in change_of(host, item)]
    oldest = oldest_in(observations)
    joining = [change for host in decision.join for change in joining_as(host, observations)]
    problems = [
        *kubernetes_problems(members),
        *(problem for change in [*changes, *joining] for problem in change_problems(cluster, change, oldest, back_to)),
        *([] if is_mixed(observations) else least_problems(changes)),
        *stuck_problems(members),
        *early_problems(cluster, observations, decision),
    ]
    lines = merged(
        note(f"etcd: {change.runs} -> {change.wanted} ({change.image}, {change.chosen_by})", change.host)
        for change in changes
    )
    is_due = any(members[change.host]["etcd"].get("ready") for change in changes)
    # downgrade.py has warned of what a downgrade costs.
    unexpected = [change for change in changes if change.wanted.branch != back_to]
    return Upgrade(is_due, problems, change_warnings(unexpected), lines)


def wanted_images(observations: Observations) -> list[tuple[str, Observation]]:
    """Hosts whose wanted image is known."""
    return [(host, item) for host, item in observations.items() if item["config"].get("image")]


def choice(item: Observation) -> str:
    """The wanted image of a host, and who chose it."""
    return f"{item['config']['image']}, {chosen_by(item)}"


def chosen_by(item: Observation) -> str:
    """What chose the image of a host: etcd_image_tag or kubeadm."""
    return (
        "by etcd_image_tag"
        if item["config"].get("image_tag")
        else f"chosen by kubeadm {item['facts']['kubeadm_version']}"
    )


def runs(item: Observation) -> EtcdVersion | None:
    """The version of etcd on a host: that of the process, or, if it does not answer, of the manifest. None if unknown."""
    etcd = item["etcd"]
    return etcd_version_in(etcd.get("version") or "") or etcd_version_of(etcd.get("image"))


def change_of(host: str, item: Observation) -> list[Change]:
    """The change of version on a host that has data; none if a version is unknown, as that of a tag which is no version.

    The image that is installed may hold another version than its tag says: it is not changed.
    """
    if item["etcd"].get("image") == item["config"].get("image"):
        return []
    before, after = runs(item), etcd_version_of(item["config"].get("image"))
    if not (before and after and item["etcd"]["has_data"]) or before == after:
        return []
    return [Change(host, before, after, item["config"]["image"], chosen_by(item))]


def joining_as(host: str, observations: Observations) -> list[Change]:
    """What a member that joins runs, as a change of the newest version that members run; none if a version is unknown."""
    item = observations[host]
    before = newest_in(observations)
    wanted = etcd_version_of(item["config"].get("image"))
    return [Change(host, before, wanted, item["config"]["image"], chosen_by(item))] if before and wanted else []


def newest_in(observations: Observations) -> EtcdVersion | None:
    """The newest version that members run; None if it is unknown."""
    return max(filter(None, map(runs, observations.values())), default=None)


def oldest_in(observations: Observations) -> EtcdVersion | None:
    """The version that the cluster has agreed on, which is the oldest minor version that ran when it was last raised; else the oldest that is seen."""
    agreed = (etcd_version_in(str(item["etcd"].get("cluster_version") or "")) for item in observations.values())
    # A new cluster has 3.0.0 for some seconds.
    known = [version for version in agreed if version and version.minor]
    seen = (runs(item) for item in observations.values())
    return min(known, default=None) or min(filter(None, seen), default=None)


def change_problems(cluster: Cluster, change: Change, oldest: EtcdVersion | None, back_to: str = "") -> list[Problem]:
    """Why etcd would not start with the wanted version, or not find its peers. oldest: see oldest_in. back_to: see upgrade."""
    if oldest is None or change.wanted.branch == back_to:
        return []
    wanted, minor = change.wanted, oldest.minor
    if wanted.minor < minor:
        way = f"To have it nevertheless, run site.yml -e etcd_downgrade={oldest.major}.{minor - 1}"
        if wanted.minor < minor - 1:
            way = f"etcd goes back one minor version at a time, first to {oldest.major}.{minor - 1} by etcd_downgrade"
        text = (
            f"etcd {change.runs} would be followed by {wanted} ({change.image}, {change.chosen_by}), and cluster {cluster.name!r} has agreed on version"
            f" {oldest.branch}: an older etcd does not start on this data. Set etcd_image_tag to a release of etcd {oldest.branch}, for example"
            f' {change.runs}-0. {way} (docs/upgrades.md, "Back to an older version").'
        )
        return [Problem(text, STOPS, change.host, code="downgrade")]
    if wanted.minor > minor + 1:
        between = f"{oldest.major}.{minor + 1}"
        advised = BEFORE_MINOR.get(minor + 2)
        example = f", for example {advised.advised}-0" if advised else ""
        text = (
            f"etcd {wanted} ({change.image}, {change.chosen_by}) cannot follow while cluster {cluster.name!r} has version {oldest.branch}: etcd is upgraded one"
            f" minor version at a time. Set etcd_image_tag to a release of etcd {between}{example}, run site.yml, and then use {wanted.branch}."
        )
        return [Problem(text, STOPS, change.host, code="minor")]
    return []


def is_mixed(observations: Observations) -> bool:
    """Whether an upgrade has begun: members run different minor versions."""
    return len({version.minor for version in map(runs, observations.values()) if version}) > 1


def least_problems(changes: list[Change]) -> list[Problem]:
    """Members whose patch release is too old for the next minor version. An upgrade that has begun can only be finished."""
    problems = []
    for change in changes:
        rule = BEFORE_MINOR.get(change.wanted.minor)
        if rule and change.runs.minor == change.wanted.minor - 1 and change.runs < rule.least:
            text = (
                f"etcd {change.runs} is too old for {change.wanted}: every member has to run {rule.least} or later before {change.wanted.branch} follows, since"
                f" {rule.why} ({rule.source}). Set etcd_image_tag: {rule.advised}-0, run site.yml, and then use {change.wanted.branch}."
            )
            problems.append(Problem(text, STOPS, change.host, code="patch"))
    return problems


def stuck_problems(members: Mapping[str, Observation]) -> list[Problem]:
    """Members that were upgraded to 3.7 without this collection, and panic."""
    problems = []
    for host, item in members.items():
        versions = etcd_version_of(item["etcd"].get("image")), etcd_version_of(item["config"].get("image"))
        is_new = all(version and version.minor >= WITHOUT_FORMER_API for version in versions)
        if is_new and item["etcd"].get("unreadable") and not item["etcd"].get("version"):
            text = (
                f'etcd {versions[0]} cannot start on this data ("unmarshal should never fail"): the log has entries of etcd 3.5, and no raft snapshot is newer.'
                f" Bring the member back to etcd 3.6 first: site.yml --limit {host} -e etcd_image_tag=3.6.14-0. Then run site.yml as before: it restarts the"
                " member once more on 3.6 before it upgrades it (docs/unmarshal-should-never-fail.md)."
            )
            problems.append(Problem(text, STOPS, host, code="unreadable-log"))
    return problems


def early_problems(cluster: Cluster, observations: Observations, decision: Decision) -> list[Problem]:
    """Members that would join with 3.7 before the others have been restarted for it: they are sent the entries that 3.7 cannot read, and panic.

    A member that has written a raft snapshot sends that instead (tests/etcd/test_upgrade.py).
    """
    listed, agreed = membership(observations) or [], oldest_in(observations)
    unseen = {member.host for member in cluster.members if member.host not in observations and entry_of(member, listed)}
    former = {host for host, item in observations.items() if item["etcd"].get("unreadable")}
    problems = []
    for host in decision.order:
        if host not in decision.join:
            former.discard(host)
            continue
        wanted = etcd_version_of(observations[host]["config"].get("image"))
        if not (agreed and wanted and agreed.minor < WITHOUT_FORMER_API <= wanted.minor and former | unseen):
            continue
        text = (
            f'this host would join cluster {cluster.name!r} with etcd {wanted}, which cannot read entries of etcd 3.5 ("unmarshal should never fail"), and the'
            f" log of {', '.join(sorted(former or unseen))} {'has' if former else 'may have'} some{'' if former else ' (not part of this run)'}. To have it"
            f" join, set etcd_image_tag to the version that runs, for example {newest_in(observations)}-0. Then run site.yml without that: it restarts these"
            " members once more before it upgrades them (docs/unmarshal-should-never-fail.md)."
        )
        problems.append(Problem(text, STOPS, host, code="unreadable-log"))
    return problems


def kubernetes_problems(members: Mapping[str, Observation]) -> list[Problem]:
    """Hosts whose kubeadm and kubelet have skipped a minor version since the last run."""
    problems = []
    for host, item in members.items():
        before, after = item["config"].get("installed_version"), item["config"].get("kubernetes_version")
        minors = minor_of(before), minor_of(after)
        if minors[0] and minors[1] and minors[1] > minors[0] + 1:
            are, do = (
                ("would be", "Have etcd_packages install") if item["reasons"].get("packages") else ("are", "Install")
            )
            text = (
                f"kubeadm and the kubelet were {before} in the last run, and {are} {after} now: Kubernetes supports one minor version at a time. {do}"
                f" 1.{minors[0] + 1} first, run site.yml, and then go on."
            )
            problems.append(Problem(text, STOPS, host, code="kubernetes-minor"))
    return problems


def change_warnings(changes: list[Change]) -> list[Problem]:
    """What is possible and not advised: an older patch release, the way back, and less than etcd's guide asks for."""
    warnings = []
    for change in changes:
        rule = BEFORE_MINOR.get(change.wanted.minor)
        if change.wanted < change.runs:
            warnings.append(
                note(
                    f"etcd {change.runs} is followed by an older release, {change.wanted} ({change.chosen_by}).",
                    change.host,
                )
            )
        elif rule and change.runs.minor == change.wanted.minor - 1 and rule.least <= change.runs < rule.advised:
            text = f"etcd {change.runs}: etcd's guide asks for {rule.advised} or later before {change.wanted.branch} follows, since {rule.why} ({rule.source})."
            warnings.append(note(text, change.host))
    return warnings
