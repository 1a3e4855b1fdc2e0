"""Random sequences with real etcd: members join, leave, lose their data and restart, joins end halfway, and the power fails, while a client writes.

The steps are those of the collection, without hosts: a step takes a second or a few, so that many states are met. tests/integration/test_random.py has whole
hosts. KUBEADM_ETCD_SEED=7 KUBEADM_ETCD_STEPS=300 runs one sequence. A failure prints all steps before it, and a seed always chooses the same ones.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from dataclasses import dataclass, field

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.client import Member as Entry
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.membership import entry_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.departure import leave
from ansible_collections.kubeadm.etcd.plugins.module_utils._member.turn import peers_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.members import has_url_of_joining

from .conftest import VERSIONS, Cluster, Make, Member, peer_url, takes_no_write, wait_until
from .test_membership import leave_spec, membership, small, writing

SEED = os.environ.get("KUBEADM_ETCD_SEED", "")
STEPS = int(os.environ.get("KUBEADM_ETCD_STEPS", "100"))
SEQUENCES = (
    [(version, int(SEED), STEPS) for version in VERSIONS]
    if SEED
    else [("3.6.14", 1, 12), *(pytest.param(version, 2, STEPS, marks=pytest.mark.long) for version in VERSIONS)]
)

# Where a join may end: the next one finishes it.
PHASES = ADDED, STARTED, PROMOTED, JOINED = ("added", "started", "promoted", "joined")

# Raft snapshots are taken, and a member that was away gets one.
FLAGS = {"snapshot-count": "100"}


@dataclass
class Sequence:
    """A cluster, and the hosts that may have a member. joining: whose join ended halfway."""

    cluster: Cluster
    outside: list[Member]
    chance: random.Random
    joining: Member | None = None
    log: list[str] = field(default_factory=list)

    @property
    def running(self) -> list[Member]:
        """All members that have been started."""
        return [*self.cluster.members, *([self.joining] if self.joining and self.joining.process else [])]

    def step(self) -> None:
        """One step, and what holds after each."""
        cluster, size = self.cluster, len(self.cluster.members)
        possible = {
            self.join: 4 if self.joining or self.outside else 0,
            self.depart: 2 if size > 1 and not self.joining else 0,
            self.give_up: 1 if self.joining else 0,
            self.restart: 2,
            self.fail_power: 3,
            self.replace_emptied: 2 if size > 2 and not self.joining else 0,
            self.hand_over: 1 if size > 1 else 0,
        }
        (chosen,) = self.chance.choices(list(possible), list(possible.values()))
        self.log.append(chosen.__name__)
        chosen()
        cluster.wait()
        assert cluster.agree(cluster.revision())
        members = membership(cluster).members()
        voters = sorted(item.name for item in members if item.started and not item.is_learner)
        assert voters == sorted(cluster.names)

    def pick(self) -> Member:
        """A member of the cluster."""
        member = self.chance.choice(self.cluster.members)
        self.log[-1] += f" {member.name}"
        return member

    # --- Steps --------------------------------------------------------------------------------------------------------

    def join(self, member: Member | None = None, phase: str = "") -> None:
        """A member joins, or a join goes on. It may end after any of its phases."""
        member = member or self.joining or self.outside.pop(0)
        phase = phase or self.chance.choice([*PHASES, JOINED, JOINED])
        self.log[-1] += f" {member.name}: {phase}"
        self.joining, acts, urls = member, membership(self.cluster), [peer_url(member.name)]
        entry = acts.add_learner(member.name, urls, 30)
        if phase == ADDED:
            return
        if not member.running:
            member.peers = peers_of(acts.members(), entry.id, member.name)
            member.start("existing", [*self.cluster.names, member.name], **FLAGS)

        def seen() -> Entry:
            return next(item for item in acts.members() if item.id == entry.id)

        wait_until(f"{member.name} is not started", lambda: seen().started)
        if phase == STARTED:
            return
        # The run may end between the promotion and the change of the peer URLs.
        acts.promote(entry.id, seen().peer_urls if phase == PROMOTED else urls, 60)
        self.joining = None
        self.cluster.members.append(member)
        self.cluster.names.append(member.name)
        wait_until(f"{member.name} is not healthy", member.healthy)

    def give_up(self) -> None:
        """Somebody removes the learner, which may never have been started."""
        member, self.joining = self.joining, None
        assert member
        self.remove(member)

    def depart(self) -> None:
        """A member leaves. The next run has finished its join before."""
        member = self.pick()
        self.finish()
        self.remove(member)

    def remove(self, member: Member) -> None:
        """By the function that the module calls. Others are asked first: the member may have ended."""
        self.cluster.members.sort(key=lambda item: item is member)
        assert leave(leave_spec(self.cluster, member), check=False)["changed"]
        if member in self.cluster.members:
            self.cluster.members.remove(member)
            self.cluster.names.remove(member.name)
        member.signal(signal.SIGKILL)
        shutil.rmtree(member.data, ignore_errors=True)
        member.process, member.peers = None, ()
        self.outside.append(member)

    def finish(self) -> None:
        """What the next run does if a member was promoted and has the peer URLs of its join still."""
        acts = membership(self.cluster)
        for item in acts.members():
            if not item.is_learner and has_url_of_joining(item.peer_urls):
                acts.promote(item.id, [peer_url(item.name)], 30)

    def restart(self) -> None:
        """A member ends, by itself or not, and comes back."""
        member = self.pick()
        member.signal(self.chance.choice([signal.SIGKILL, signal.SIGTERM]))
        self.start([member])

    def start(self, members: list[Member]) -> None:
        """With the flags that they have by then: a learner has those of its join."""
        for member in members:
            if member is self.joining:
                member.start("existing", [*self.cluster.names, member.name], **FLAGS)
            else:
                member.start("existing", self.cluster.names, published=True, **FLAGS)

    def fail_power(self) -> None:
        """All end. First some come back that are no quorum: they take no write. A learner does not count."""
        members = self.running
        for member in members:
            member.signal(signal.SIGKILL)
        self.chance.shuffle(members)
        voters = [member for member in members if member is not self.joining]
        few = voters[: self.chance.randint(0, (len(voters) - 1) // 2)]
        few += [member for member in members if member is self.joining and self.chance.random() < 0.5]
        self.log[-1] += f", first {', '.join(member.name for member in few) or 'nobody'}"
        self.start(few)
        if few:
            assert takes_no_write(few, 2.5)
        self.start([member for member in members if member not in few])

    def replace_emptied(self) -> None:
        """A member loses its data. Started as it is, it refuses to start; then it leaves and joins anew."""
        self.finish()
        member = self.pick()
        member.signal(signal.SIGKILL)
        shutil.rmtree(member.data)
        self.start([member])
        assert member.last_words()
        self.remove(member)
        self.outside.remove(member)
        self.join(member)

    def hand_over(self) -> None:
        """The leader, if it is chosen, lets another one lead."""
        member = self.pick()
        entry = entry_of(membership(self.cluster).members(), member.name, [peer_url(member.name)])
        assert entry
        membership(self.cluster).hand_over(entry.id, 30)


@pytest.mark.parametrize(("version", "seed", "steps"), SEQUENCES)
def test_a_random_sequence(make_cluster: Make, version: str, seed: int, steps: int) -> None:
    """No acknowledged write is lost, a minority takes none, and the votes are those of the members that have joined."""
    cluster, joiners = small(make_cluster, version, 1, 5)
    hosts = [*cluster.members, *joiners]
    sequence = Sequence(cluster, joiners, random.Random(seed))
    try:
        with writing(cluster) as counted:
            for _number in range(steps):
                sequence.step()
            if sequence.joining:
                sequence.log.append("finished:")
                sequence.join(phase=JOINED)
            sequence.finish()
            assert not any(has_url_of_joining(item.peer_urls) for item in membership(cluster).members())
        assert cluster.agree() and counted["acknowledged"] > steps
    except BaseException:
        print(f"etcd {version}, seed {seed}:", *sequence.log, sep="\n")
        raise
    finally:
        cluster.power_cut()
        cluster.members = hosts
    print(
        f"etcd {version}, seed {seed}: {steps} steps, {counted['acknowledged']} writes, longest gap {counted['gap']:.1f} s"
    )
