"""Members on real hosts join as learners, are removed and replaced. A join is undone if etcd does not start."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from .conftest import LAB_NAME, Lab, Run, inventory
from .test_killed import STEP, in_parts, killed_at, unchanged
from .test_live import flat, writing

HOSTS = ["infra0", "infra1", "infra2", "infra3"]
REMOVE, REPLACE = "playbooks/remove_member.yml", "playbooks/replace_member.yml"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    """Four fresh hosts of a lab of their own."""
    it = Lab(f"{LAB_NAME}members", HOSTS)
    it("up", "--hosts", str(len(HOSTS)))
    it.fresh()
    yield it
    it("down")


def only(lab: Lab, path: Path, *names: str, **variables: str) -> str:
    """An inventory of some hosts. variables: of a host, as YAML."""
    addresses = lab.addresses()
    return inventory(
        lab, path, {name: f'ansible_host: "{addresses[name]}"' + variables.get(name, "") for name in names}
    )


def names(lab: Lab, host: str = "infra0") -> list[str]:
    """The voting members, as etcdctl tells them."""
    # Another host may be down.
    listed = json.loads(replace(lab, hosts=[host]).etcdctl(host, "member", "list", "-w", "json"))["members"]
    assert not any(item.get("isLearner") for item in listed)
    return sorted(item["name"] for item in listed)


def hit(lab: Lab, playbook: str, member: str, where: str, *arguments: str) -> Run:
    """remove_member.yml or replace_member.yml for a member, which succeeds."""
    run = lab.play(
        "-e", f"etcd_member={member}", *arguments, playbook=f"playbooks/{playbook}_member.yml", inventory=where
    )
    assert run.code == 0, run.output[-6000:]
    return run


def test_from_one_member_to_three(hosts: Lab, tmp_path: Path) -> None:
    """In one run, while a client writes. The second run changes nothing, and the first host is where the CA is."""
    assert hosts.play(inventory=only(hosts, tmp_path, "infra0")).code == 0
    assert names(hosts) == ["infra0"]
    three = only(hosts, tmp_path, "infra0", "infra1", "infra2")
    with writing(hosts, "grow") as counted:
        check = hosts.play("--check", "--diff", inventory=three)
        assert check.code == 0 and names(hosts) == ["infra0"], check.output[-6000:]
        run = hosts.play("--diff", inventory=three)
    assert run.code == 0, run.output[-6000:]
    assert "one member after the other: infra1 (joins), infra2 (joins)" in run.output
    assert "both are needed for quorum until infra2 has joined as well" in flat(run.output)
    assert names(hosts) == ["infra0", "infra1", "infra2"]
    # With one member, no other one takes a write that waits for its disk for a second.
    assert counted["lost"] == 0 and counted["gap"] < 5, counted
    again = hosts.play(inventory=three)
    assert again.code == 0 and again.changed() == {}, again.output[-6000:]
    # A member that joined has the same files as after a first run.
    assert hosts.sh("infra1", "ls /etc/kubernetes/pki/etcd") == hosts.sh("infra2", "ls /etc/kubernetes/pki/etcd")


def test_a_join_whose_etcd_does_not_start_is_undone(hosts: Lab, tmp_path: Path) -> None:
    """The message quotes etcd. With the cause corrected, the next run joins the host."""
    wrong = only(hosts, tmp_path, *HOSTS, infra3=", etcd_extra_args: {quota-backend-bytes: 8G}")
    run = hosts.play(inventory=wrong)
    said = flat(run.output)
    assert run.code != 0 and "The join was undone" in said and "quota-backend-bytes" in said, run.output[-6000:]
    assert names(hosts) == ["infra0", "infra1", "infra2"]
    assert hosts.sh("infra3", "ls /etc/kubernetes/manifests; pidof etcd || true") == ""
    four = only(hosts, tmp_path, *HOSTS)
    run = hosts.play(inventory=four)
    assert run.code == 0 and names(hosts) == HOSTS, run.output[-6000:]
    assert hosts.play(inventory=four).changed() == {}


def test_the_leader_is_removed(hosts: Lab, tmp_path: Path) -> None:
    """Its data and record are kept, no write fails, and it does not join again in the next run."""
    four = only(hosts, tmp_path, *HOSTS)
    status = json.loads(hosts.etcdctl("infra0", "endpoint", "status", "--cluster", "-w", "json"))
    leader = next(item for item in status if item["Status"]["leader"] == item["Status"]["header"]["member_id"])
    address = re.sub(r"https://(.*):2379", r"\1", leader["Endpoint"])
    name = next(host for host, item in hosts.addresses().items() if item == address)
    if name == "infra0":
        # It has the writer.
        other = next(item for item in hosts.members() if item["name"] == "infra1")
        hosts.etcdctl("infra0", "move-leader", f"{other['ID']:x}")
        name = "infra1"
    check = hosts.play("-e", f"etcd_member={name}", "--check", playbook="playbooks/remove_member.yml", inventory=four)
    assert check.code == 0 and names(hosts) == HOSTS, check.output[-6000:]
    assert "not in the inventory" not in flat(check.output)
    with writing(hosts, "removal") as counted:
        run = hit(hosts, "remove", name, four)
    rest = [host for host in HOSTS if host != name]
    assert names(hosts) == rest and f"cluster etcd: {name} leaves" in run.output
    assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 5, counted
    left = hosts.sh(
        name,
        "pidof etcd; systemctl is-active kubelet; ls /etc/kubernetes/manifests /etc/systemd/system/kubelet.service.d;"
        " ls -d /var/lib/etcd*/member* /var/lib/etcd.* 2>/dev/null; cat /etc/kubernetes/kubeadm-etcd/member.json",
        check=False,
    )
    assert "inactive" in left and ".removed-" in left and "etcd.yaml" not in left and '"removed": "20' in left, left
    assert hit(hosts, "remove", name, four).changed() == {}
    refused = hosts.play(inventory=four)
    assert refused.code != 0 and f"member {name} was removed from cluster 'etcd'" in flat(refused.output)
    # Without it, nothing differs.
    assert hosts.play(inventory=only(hosts, tmp_path, *rest)).changed() == {}
    hit(hosts, "replace", name, only(hosts, tmp_path, *HOSTS))
    assert names(hosts) == HOSTS


@pytest.mark.long
def test_two_members_leave_at_once_and_come_back_at_once(hosts: Lab, tmp_path: Path) -> None:
    """Two runs, each for one of them. Neither takes the other's member for one that is missing, or for one too many."""
    four = only(hosts, tmp_path, *HOSTS)
    assert hosts.play(inventory=four).code == 0 and names(hosts) == HOSTS
    for operation, rest in (("remove", HOSTS[:2]), ("replace", HOSTS)):
        with writing(hosts, f"{operation}s") as counted, ThreadPoolExecutor() as pool:
            runs = list(pool.map(lambda name, operation=operation: hit(hosts, operation, name, four), HOSTS[2:]))
        print(operation, [f"{run.seconds:.0f} s" for run in runs], counted)
        assert names(hosts) == rest
        assert counted["lost"] == 0 and counted["nowhere"] == 0 and counted["gap"] < 8, counted
    assert hosts.play(inventory=four).changed() == {}


@pytest.mark.long
def test_a_member_that_lost_its_data_is_replaced(hosts: Lab, tmp_path: Path) -> None:
    four = only(hosts, tmp_path, *HOSTS)
    assert hosts.play(inventory=four).code == 0 and names(hosts) == HOSTS
    hosts.sh(
        "infra2",
        "mv /etc/kubernetes/manifests/etcd.yaml /root/; while pidof etcd; do sleep 0.2; done; rm -r /var/lib/etcd/member",
    )
    refused = hosts.play(inventory=four)
    assert refused.code != 0 and "replace_member.yml -e etcd_member=infra2" in flat(refused.output)
    # If the image cannot be pulled, the member is not removed and no snapshot is taken.
    snapshots = "ls /var/backups/etcd 2>/dev/null | wc -l"
    taken = [hosts.sh(host, snapshots) for host in HOSTS]
    wrong = ("-e", "etcd_member=infra2", "-e", "etcd_image_tag=3.6.99-0")
    run = hosts.play(*wrong, playbook="playbooks/replace_member.yml", inventory=four)
    assert run.code != 0 and "3.6.99-0 cannot be pulled" in flat(run.output) and names(hosts) == HOSTS, run.output[
        -6000:
    ]
    assert taken == [hosts.sh(host, snapshots) for host in HOSTS]
    with writing(hosts, "replace") as counted:
        hit(hosts, "replace", "infra2", four)
    assert names(hosts) == HOSTS and counted["lost"] == 0 and counted["nowhere"] == 0, counted
    # Its manifest has the membership of the join. Without its data, the kubelet restarts etcd again and again, and it does not join empty.
    first = replace(hosts, hosts=HOSTS[:1])
    assert "infra0=" in hosts.sh("infra2", "grep initial-cluster= /etc/kubernetes/manifests/etcd.yaml")
    assert "localhost" not in first.etcdctl("infra0", "member", "list")
    hosts.sh("infra2", "rm -r /var/lib/etcd/member; kill -9 $(pidof etcd)")
    log = "cat /var/log/pods/kube-system_etcd-*/etcd/*.log"
    for attempt in (1, 2):
        deadline = time.monotonic() + 120
        while hosts.sh("infra2", log, check=False).count("no match found for existing member") < attempt:
            assert time.monotonic() < deadline
            time.sleep(1)
        first.etcdctl(
            "infra0", "move-leader", f"{next(m['ID'] for m in first.members() if m['name'] == 'infra1'):x}", check=False
        )
    assert hosts.sh("infra2", "ls /var/lib/etcd/member/wal/*.wal", check=False) == ""
    refused = hosts.play(inventory=four)
    assert refused.code != 0 and "replace_member.yml -e etcd_member=infra2" in flat(refused.output), refused.output[
        -6000:
    ]
    hit(hosts, "replace", "infra2", four)
    assert names(hosts) == HOSTS
    assert hosts.play(inventory=four).changed() == {}
    # A healthy one is not replaced by mistake.
    run = hosts.play("-e", "etcd_member=infra2", playbook="playbooks/replace_member.yml", inventory=four)
    assert run.code != 0 and "etcd_replace_healthy=true" in flat(run.output)


@pytest.mark.long
def test_a_host_that_is_gone_for_good(hosts: Lab, tmp_path: Path) -> None:
    """Its member is removed without it, and it is cleared when it comes back. Rebuilt from nothing, it joins anew."""
    four = only(hosts, tmp_path, *HOSTS)
    assert hosts.play(inventory=four).code == 0 and names(hosts) == HOSTS
    hosts("stop", "infra3")
    run = hit(hosts, "remove", "infra3", four)
    assert names(hosts) == HOSTS[:3] and "this host cannot be reached" in flat(run.output)
    hosts("start", "infra3")
    hit(hosts, "remove", "infra3", four)
    assert "inactive" in hosts.sh("infra3", "systemctl is-active kubelet || true")
    hosts("wipe", "infra3")
    run = hosts.play(inventory=four)
    assert run.code == 0 and names(hosts) == HOSTS, run.output[-6000:]


@pytest.mark.long
def test_killed_in_the_middle_of_a_join(hosts: Lab, tmp_path: Path) -> None:
    """The controller ends while the learner is added, started, promoted. The next run finishes the join, and leaves no further peer URL."""
    four = only(hosts, tmp_path, *HOSTS)
    assert hosts.play(inventory=four).code == 0
    first = replace(hosts, hosts=HOSTS[:1])
    for seconds in (6, 11, 17):
        hit(hosts, "remove", "infra3", four)
        with writing(hosts, f"middle{seconds}") as counted:
            run = hosts.play(
                "-e",
                "etcd_member=infra3",
                KILL_AT="Change the member, and wait for it",
                KILL_AFTER=str(seconds),
                KILL_COUNT=str(tmp_path / "count"),
                KILL_MARKER=f"middle-{os.getpid()}-{seconds}",
                ANSIBLE_CALLBACK_PLUGINS=str(Path(__file__).with_name("callback")),
                ANSIBLE_CALLBACKS_ENABLED="kill_at",
                playbook="playbooks/replace_member.yml",
                inventory=four,
            )
            # The module notices that its controller is gone.
            time.sleep(3)
            print(f"killed after {seconds} s, code {run.code}:\n{first.etcdctl('infra0', 'member', 'list')}")
            again = hosts.play("-e", "etcd_member=infra3", playbook="playbooks/replace_member.yml", inventory=four)
        assert again.code == 0 or "etcd_replace_healthy=true" in flat(again.output), again.output[-6000:]
        assert names(hosts) == HOSTS
        assert counted["lost"] == 0 and counted["nowhere"] == 0, counted
        assert hosts.play(inventory=four).code == 0 and hosts.play(inventory=four).changed() == {}
        assert "localhost" not in first.etcdctl("infra0", "member", "list")


def is_as_before(lab: Lab, before: tuple[object, ...]) -> bool:
    """Whether a run has changed no host, container or membership. Then the next run would be the same, and is skipped."""
    return before[2] == lab.members() and unchanged(lab, before[:2])  # type: ignore[arg-type]


def sweep(lab: Lab, tmp_path: Path, where: str, playbook: str, first: int) -> tuple[int, int, int]:
    """While a client writes, kill an operation on infra3 at a task, earlier ones first, until a killed run has changed something. Then run it again.

    Returns the task, the number of begun tasks (if lower, the run was not killed there), and the number of killed runs.
    """
    arguments = ("-e", "etcd_member=infra3") if playbook != "site.yml" else ()
    before = lab.fingerprint(), lab.containers(), lab.members()
    number, killed = first, 0
    with writing(lab, f"{Path(playbook).stem}{first}") as counted:
        while True:
            run, begun = killed_at(lab, tmp_path, number, *arguments, playbook=playbook, inventory=where)
            killed += run.code != 0
            if run.code == 0 or not is_as_before(lab, before):
                break
            number += STEP
        again = lab.play(*arguments, playbook=playbook, inventory=where)
    # A replacement that was complete is refused: the member is healthy.
    is_done = playbook == REPLACE and "etcd_replace_healthy=true" in flat(again.output)
    assert again.code == 0 or is_done, (
        f"killed at task {number}:\n{run.output[-1500:]}\nand again:\n{again.output[-6000:]}"
    )
    assert counted["lost"] == 0 and counted["nowhere"] == 0, (number, counted)
    third = (
        lab.play(*arguments, playbook=playbook, inventory=where) if playbook == REMOVE else lab.play(inventory=where)
    )
    assert third.code == 0 and third.changed() == {}, (number, third.output[-3000:])
    print(f"{playbook}: killed at {number}, longest gap {counted['gap']} s", flush=True)
    return number, begun, killed


@pytest.mark.long
@in_parts(3)
def test_killed_at_every_task(hosts: Lab, tmp_path: Path, part: range) -> None:
    """A join, a replacement and a removal, in this order: the next run finishes each of them."""
    hosts.fresh()
    four, three = only(hosts, tmp_path, *HOSTS), tmp_path / "three"
    three.mkdir()
    assert hosts.play(inventory=only(hosts, three, *HOSTS[:3])).code == 0
    due = dict.fromkeys(("site.yml", REPLACE, REMOVE), part.start)
    killed, finished = dict.fromkeys(due, 0), dict.fromkeys(due, 0)
    while any(due.values()):
        for playbook, number in due.items():
            if playbook == REPLACE and number:
                hosts.sh(
                    "infra3",
                    "mv /etc/kubernetes/manifests/etcd.yaml /root/; while pidof etcd; do sleep 0.2; done; rm -r /var/lib/etcd/member",
                )
            if number:
                at, begun, count = sweep(hosts, tmp_path, four, playbook, number)
                killed[playbook] += count
                finished[playbook] += begun >= at
                due[playbook] = at + STEP if begun >= at and at + STEP in part else 0
            elif playbook == REMOVE:
                hit(hosts, "remove", "infra3", four)
            elif playbook != REPLACE:
                assert hosts.play(inventory=four).code == 0
            assert names(hosts) == (HOSTS[:3] if playbook == REMOVE else HOSTS), (playbook, number)
        hosts("wipe", "infra3")
    print(
        "\n".join(
            f"{name}: killed at {killed[name]} tasks, {finished[name]} with something left to finish" for name in due
        )
    )


@pytest.mark.long
def test_a_removal_beside_one_that_removes_the_keys_of_its_host(hosts: Lab, tmp_path: Path) -> None:
    """infra0 is asked by the removal of infra3, and another run removes it with its keys: before infra3 leaves, and after that."""
    hosts.fresh()
    ca, beside = ("-e", "etcd_ca_host=infra1"), ("-e", "etcd_backup_before_change=false")
    four = only(hosts, tmp_path, *HOSTS)

    def begin(seconds: int) -> Run:
        """The removal of infra3. The seconds pass after its plan, and before its change."""
        wait = {"etcd_backup_command": ["sh", "-c", f"sleep {seconds}", "{file}"]}
        arguments = ("-e", "etcd_member=infra3", *ca, "-e", json.dumps(wait))
        return hosts.play(*arguments, playbook=REMOVE, inventory=four)

    assert hosts.play(*ca, inventory=four).code == 0 and names(hosts) == HOSTS
    with ThreadPoolExecutor() as pool:
        run = pool.submit(begin, 25)
        deadline = time.monotonic() + 90
        while not any(hosts.sh(host, "ls /var/backups/etcd/*.db.json 2>/dev/null || true") for host in HOSTS):
            assert not run.done() and time.monotonic() < deadline, run.done() and run.result().output[-4000:]
            time.sleep(0.5)
        hit(hosts, "remove", "infra0", four, *ca, *beside, "-e", "etcd_wipe_keys=true")
        first = run.result()
    said = flat(first.output)
    assert first.code != 0 and "infra3 is not removed: since this run was planned, another run has removed the" in said
    assert names(hosts, "infra1") == HOSTS[1:]
    # infra0 comes back, and the next time infra3 has left when that happens.
    hit(hosts, "replace", "infra0", four, *ca)
    assert names(hosts) == HOSTS
    lock = "/etc/kubernetes/kubeadm-etcd/lock-manifest"
    with ThreadPoolExecutor() as pool:
        held = pool.submit(hosts.sh, "infra3", f"flock {lock} sh -c 'while [ ! -e /root/go ]; do sleep 0.2; done'")
        run = pool.submit(begin, 0)
        deadline = time.monotonic() + 90
        while "infra3" in names(hosts):
            assert not run.done() and time.monotonic() < deadline, run.done() and run.result().output[-4000:]
            time.sleep(0.5)
        hit(hosts, "remove", "infra0", four, *ca, *beside, "-e", "etcd_wipe_keys=true")
        hosts.sh("infra3", "touch /root/go")
        held.result()
        second = run.result()
    assert second.code == 0 and "WARNING: another run has removed the member of this host" in flat(second.output)
    assert names(hosts, "infra1") == HOSTS[1:3]
    assert "removed" in hosts.sh("infra3", "cat /etc/kubernetes/kubeadm-etcd/member.json")
    hosts.fresh()
