# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A downgrade by etcd's API: whether a run may enable, continue or cancel it. Runs on the controller, pure.

etcd has three phases, and each is read from what its members report. Enabled: the leader lowers the version of the cluster, and each member that of
its data. Then members get the older version, one after the other. When the last one has it, etcd itself ends the downgrade. So a run without
etcd_downgrade that sees one under way neither continues nor cancels it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.kubeadm.etcd.plugins.module_utils._control.cluster import Cluster
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.decision import (
    BOOTSTRAP,
    ROLLING,
    START_ALL,
    Decision,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.identity import entry_of, membership
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.steps import DOWNGRADE, Step
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.upgrade import (
    STOPS,
    change_of,
    chosen_by,
    is_mixed,
    newest_in,
    oldest_in,
    runs,
    wanted_images,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.problems import Problem, note
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.reasons import Reason
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.versions import (
    BEFORE_MINOR,
    CANCEL,
    LOST_BELOW,
    EtcdVersion,
    branch_in,
    etcd_version_of,
)

if TYPE_CHECKING:
    # Python 3.8 cannot evaluate them.
    Observation = Mapping[str, Any]
    Observations = Mapping[str, Observation]


@dataclass(frozen=True)
class Downgrade:
    """What a downgrade means for a run. target: the minor version that members may go back to, '' if they may not."""

    target: str = ""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)


def enabled_in(observations: Observations) -> str:
    """The minor version that a downgrade goes to which is enabled, by any member; '' if there is none. etcd 3.5 does not report it."""
    found = (branch_in(str(item["etcd"].get("downgrade") or "")) for item in observations.values())
    return next(filter(None, found), "")


def downgrade(
    cluster: Cluster, observations: Observations, decision: Decision, wished: str, asker: str | None
) -> Downgrade:
    """What a run does about a downgrade. wished: the value of etcd_downgrade. asker: the host that asks etcd."""
    enabled = enabled_in(observations)
    # A cluster that is down is started as it was.
    if decision.action in (BOOTSTRAP, START_ALL) or not (enabled or wished):
        return Downgrade()
    if wished == CANCEL:
        return cancelled(cluster, observations, enabled, asker)
    if enabled and decision.join:
        return Downgrade(enabled, join_problems(cluster, decision, enabled))
    if not wished:
        return left_alone(cluster, observations, decision, enabled)
    if enabled not in ("", wished):
        text = (
            f"etcd_downgrade is {wished}, and a downgrade of cluster {cluster.name!r} to {enabled} is under way. Finish it with -e etcd_downgrade={enabled},"
            f" or cancel it with -e etcd_downgrade={CANCEL}."
        )
        return Downgrade(problems=[Problem(text, code="downgrade")])
    agreed = oldest_in(observations)
    if agreed is None:
        return Downgrade()
    problems = image_problems(observations, wished)
    if agreed.branch == wished:
        # etcd has lowered the version of the cluster, or it is older than etcd_downgrade anyway.
        return Downgrade(wished, problems, under_way(observations, wished) if enabled else [])
    if (agreed.major, agreed.minor - 1) != split(wished):
        text = (
            f"etcd_downgrade is {wished}, and cluster {cluster.name!r} has version {agreed.branch}: etcd goes back one minor version at a time. Set"
            f" etcd_downgrade to {agreed.major}.{agreed.minor - 1}, or remove it."
        )
        return Downgrade(problems=[Problem(text, code="downgrade")])
    if enabled:
        # Each member's turn waits until the version of its data has been lowered.
        return Downgrade(wished, problems, under_way(observations, wished))
    problems = problems or [
        *least_problems(observations, agreed),
        *enable_problems(cluster, observations, decision),
    ]
    reason = Reason(
        "version",
        "downgrade",
        f"{agreed.branch} -> {wished}: a downgrade is enabled before the first member gets {wished}",
    )
    steps = [Step(DOWNGRADE, cluster.name, asker, None, (reason,))] if asker else []
    return Downgrade(wished, problems, price(agreed, wished), steps)


def split(branch: str) -> tuple[int, int]:
    """Major and minor of a version as people write it."""
    major, minor = branch.split(".")
    return int(major), int(minor)


def left_alone(cluster: Cluster, observations: Observations, decision: Decision, enabled: str) -> Downgrade:
    """A run without etcd_downgrade while a downgrade is enabled: no member that runs gets another minor version."""
    ways = (
        f"Finish it with site.yml -e etcd_downgrade={enabled}, or cancel it with site.yml -e etcd_downgrade={CANCEL} (docs/upgrades.md,"
        ' "Back to an older version").'
    )
    changing = decision.order if decision.action == ROLLING else []
    problems = [
        Problem(
            f"a downgrade of cluster {cluster.name!r} to {enabled} is under way, and etcd {change.runs} would be followed by {change.wanted}"
            f" ({change.chosen_by}). This run has no etcd_downgrade, so it neither continues nor cancels it. {ways}",
            STOPS,
            host,
            code="downgrade-under-way",
        )
        for host in changing
        for change in change_of(host, observations[host])
        if change.runs.branch != change.wanted.branch
    ]
    text = (
        f"a downgrade of cluster {cluster.name!r} to {enabled} is under way ({progress(observations, enabled)}). {ways}"
    )
    return Downgrade(enabled, problems, [] if problems else [note(text)])


def join_problems(cluster: Cluster, decision: Decision, enabled: str) -> list[Problem]:
    """Hosts that would join while a downgrade is enabled: etcd ends with "incompatible with current running cluster" then, with either version."""
    return [
        Problem(
            f"this host would join cluster {cluster.name!r} while a downgrade to {enabled} is under way, and etcd lets no member join then. Finish it first,"
            f" or cancel it: site.yml -e etcd_downgrade={CANCEL}, with the newer etcd_image_tag. If the member of this host is lost, leave the host out"
            f" of that run: --limit 'all:!{host}'",
            STOPS,
            host,
            code="downgrade-under-way",
        )
        for host in decision.join
    ]


def cancelled(cluster: Cluster, observations: Observations, enabled: str, asker: str | None) -> Downgrade:
    """A run that cancels: etcd forgets the downgrade, and members that have the older version are upgraded as usual."""
    newest = newest_in(observations)
    least = max([newest.minor if newest else 0, split(enabled)[1] + 1 if enabled else 0])
    problems = [
        Problem(
            f"etcd_downgrade is {CANCEL}, and etcd {wanted} is wanted ({chosen_by(item)}): a downgrade that is cancelled leaves all members with the newer"
            f" version. Set etcd_image_tag to a release of etcd 3.{least} for this run.",
            host=host,
            code="downgrade-image",
        )
        for host, item in observations.items()
        if (wanted := etcd_version_of(item["config"].get("image"))) and wanted.minor < least
    ]
    if not enabled:
        text = f"etcd_downgrade is {CANCEL}, and no downgrade of cluster {cluster.name!r} is enabled: there is none to cancel."
        return Downgrade(problems=problems, warnings=[note(text)])
    reason = Reason(
        "version",
        "cancelled",
        f"the downgrade to {enabled} is cancelled; members that run {enabled} are upgraded again",
    )
    steps = [Step(DOWNGRADE, cluster.name, asker, None, (reason,))] if asker else []
    return Downgrade(problems=problems, steps=steps)


def image_problems(observations: Observations, wished: str) -> list[Problem]:
    """Hosts whose wanted image is not of the version that the cluster goes back to."""
    return [
        Problem(
            f"etcd_downgrade is {wished}, and {item['config']['image']} is wanted ({chosen_by(item)}). Set etcd_image_tag to a release of etcd {wished}, or"
            " remove etcd_downgrade.",
            host=host,
            code="downgrade-image",
        )
        for host, item in wanted_images(observations)
        if getattr(etcd_version_of(item["config"]["image"]), "branch", "") != wished
    ]


def least_problems(observations: Observations, agreed: EtcdVersion) -> list[Problem]:
    """Hosts whose wanted patch release must not run beside the newer version: while a downgrade rolls, members of both run."""
    rule = BEFORE_MINOR.get(agreed.minor)
    return [
        Problem(
            f"etcd {wanted} is too old to follow {agreed.branch}: {rule.least} or later is needed, since {rule.why} ({rule.source}). Set etcd_image_tag to"
            f" {rule.advised}-0 or later.",
            STOPS,
            host,
            code="patch",
        )
        for host, item in observations.items()
        if rule and (wanted := etcd_version_of(item["config"].get("image"))) and wanted < rule.least
    ]


def enable_problems(cluster: Cluster, observations: Observations, decision: Decision) -> list[Problem]:
    """Why a downgrade is not enabled now: the leader lowers the version of the cluster only if it reaches every member, and all have to be changed."""
    absent = cluster.absent(observations)
    unready = [
        host for host, item in observations.items() if not item["etcd"].get("ready") and host not in decision.join
    ]
    listed = membership(observations) or []
    strangers = [
        str(entry.get("name") or entry.get("id"))
        for entry in listed
        if not any(entry is entry_of(member, listed) for member in cluster.members)
    ]
    begin = f"a downgrade of cluster {cluster.name!r} is not enabled:"
    found = []
    if absent:
        found.append(
            f"{begin} {', '.join(absent)} did not take part in this run, and every member has to go back. Run without --limit."
        )
    if unready:
        found.append(
            f"{begin} not every member is ready, without {', '.join(unready)} etcd would wait. Run site.yml without etcd_downgrade, and with the"
            " etcd_image_tag that runs, until all are."
        )
    if decision.join:
        found.append(
            f"{begin} {', '.join(decision.join)} would join in the same run. Run site.yml with the version that runs first, without etcd_downgrade."
        )
    if strangers:
        found.append(
            f"{begin} the cluster has {', '.join(strangers)}, which the inventory lacks, and would keep its version. Add it to the inventory, or remove it:"
            f" remove_member.yml -e etcd_member={strangers[0]}"
        )
    if is_mixed(observations):
        found.append(f"{begin} members run different minor versions. Finish the upgrade first.")
    return [Problem(text, STOPS, code="downgrade") for text in found]


def progress(observations: Observations, target: str) -> str:
    """How many of the members that were observed have the older version."""
    there = [version for version in map(runs, observations.values()) if version]
    return f"{sum(version.branch == target for version in there)} of {len(there)} members run {target}"


def under_way(observations: Observations, wished: str) -> list[Problem]:
    """The note that a run continues a downgrade."""
    return [note(f"the downgrade to {wished} is under way: {progress(observations, wished)}. {way_back()}")]


def price(agreed: EtcdVersion, wished: str) -> list[Problem]:
    """What a downgrade costs, and how to go back."""
    lost = LOST_BELOW.get(agreed.minor)
    text = f"a downgrade to {wished}: no key is lost. What only etcd {agreed.branch} can do ends as soon as the downgrade is enabled"
    return [note(f"{text}{f': {lost}' if lost else ''}. {way_back()}")]


def way_back() -> str:
    """How to go back to the newer version."""
    return (
        f"The way back, until the last member has the older version: etcd_image_tag with the newer version, and site.yml -e etcd_downgrade={CANCEL}. After"
        " that, upgrade as usual."
    )
