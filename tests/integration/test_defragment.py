"""Defragmentation on real hosts, and a full database that accepts writes again. The commands are those of docs/size.md."""

from __future__ import annotations

import json
import re

import pytest

from .conftest import Lab, Run, different, until
from .test_live import WRITER, flat, healthy, writing

DEFRAGMENT = "playbooks/defragment.yml"
QUOTA = {"etcd_extra_args": {"quota-backend-bytes": str(96 << 20)}}

# Writes or deletes large values until etcd takes no more; prints how many it took.
FILL = r"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("writer", "/root/writer.py")
writer = importlib.util.module_from_spec(spec)
spec.loader.exec_module(writer)
url, act, name, first, last = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
value = writer.encoded("x" * 400000)
for number in range(first, last):
    key = writer.encoded(f"{name}{number}")
    body = {"key": key, "value": value} if act == "put" else {"key": key}
    if not any(writer.call(url, f"/v3/kv/{act}", body) for _attempt in range(10)):
        break
else:
    number = last
print(number - first)
"""


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Lab:
    """A new cluster with a small quota."""
    lab.fresh()
    lab.site("-e", json.dumps(QUOTA))
    for name, text in (("writer", WRITER.read_text(encoding="utf-8")), ("fill", FILL)):
        lab.sh("infra0", f"cat > /root/{name}.py <<'END'\n{text}\nEND")
    return lab


def big(cluster: Lab, act: str, first: int, last: int) -> int:
    url = f"https://{cluster.addresses()['infra0']}:2379"
    return int(cluster.sh("infra0", f"python3 /root/fill.py {url} {act} big {first} {last}"))


def sizes(cluster: Lab) -> dict[str, tuple[int, int]]:
    """Size and what of it is in use, by etcdctl, in MiB."""
    told = json.loads(cluster.etcdctl("infra0", "--endpoints", cluster.endpoints(), "endpoint", "status", "-w", "json"))
    return {item["Endpoint"]: (item["Status"]["dbSize"] >> 20, item["Status"]["dbSizeInUse"] >> 20) for item in told}


def fragment(cluster: Lab) -> None:
    """Writes 60 MB, deletes nine tenths of them, and compacts like kube-apiserver."""
    assert big(cluster, "put", 0, 150) == 150 and big(cluster, "deleterange", 0, 135) == 135
    revision = cluster.etcdctl("infra0", "endpoint", "status", "-w", "json").split('"revision":')[1].split(",")[0]
    cluster.etcdctl("infra0", "compact", "--physical", revision)

    def is_compacted() -> bool:
        """Each member compacts its own database. What was freed shows with the next write."""
        cluster.etcdctl("infra0", "put", "written", "now")
        return all(size >= 6 * used for size, used in sizes(cluster).values())

    until("a database is not compacted", is_compacted, 60)


def order(run: Run) -> list[str]:
    """Hosts in the order of their turns."""
    return re.findall(r"^changed: \[(infra\d)\]$", run.output, flags=re.MULTILINE)


def leader(cluster: Lab) -> str:
    told = json.loads(cluster.etcdctl("infra0", "--endpoints", cluster.endpoints(), "endpoint", "status", "-w", "json"))
    url = next(i["Endpoint"] for i in told if i["Status"]["leader"] == i["Status"]["header"]["member_id"])
    return next(host for host, address in cluster.addresses().items() if f"//{address}:" in url)


def test_fragmented_databases(cluster: Lab) -> None:
    """While a client writes. Check mode first, which changes nothing, and a second run, which has nothing to do."""
    assert cluster.site(playbook=DEFRAGMENT).changed() == {}
    fragment(cluster)
    before, files, containers = sizes(cluster), cluster.fingerprint(), cluster.containers()
    run = cluster.site("--check", "--diff", playbook=DEFRAGMENT)
    assert set(run.changed()) == set(cluster.hosts) and sizes(cluster) == before
    assert different(files, cluster.fingerprint()) == {} and "(the leader, last)" in run.output
    assert cluster.site("-e", "etcd_defragment_threshold=95", playbook=DEFRAGMENT).changed() == {}
    leads = leader(cluster)
    with writing(cluster, "defragment") as counted:
        run = cluster.site(playbook=DEFRAGMENT)
    assert counted["lost"] == 0 and counted["acknowledged"] > 10, counted
    assert run.changed() == dict.fromkeys(cluster.hosts, 1)
    # A busy disk may cost an election.
    (told,) = set(re.findall(r"(infra\d) \(the leader, last\)", flat(run.output)))
    assert order(run)[-1] == told and (told == leads or leader(cluster) != leads)
    after = sizes(cluster)
    assert all(after[url][0] < before[url][0] // 2 for url in before), (before, after)
    assert cluster.containers() == containers and healthy(cluster)
    assert cluster.site(playbook=DEFRAGMENT).changed() == {}
    assert cluster.site("-e", json.dumps(QUOTA)).changed() == {}


@pytest.mark.long
def test_beside_a_member_that_is_down(cluster: Lab) -> None:
    fragment(cluster)
    before = sizes(cluster)
    cluster.sh("infra2", "mv /etc/kubernetes/manifests/etcd.yaml /root; while pidof etcd; do sleep 0.2; done")
    for limit in ((), ("--limit", "infra0")):
        run = cluster.play(*limit, playbook=DEFRAGMENT)
        assert run.code != 0 and run.changed() == {} and "not healthy" in flat(run.output), run.output[-3000:]
    cluster.sh("infra2", "mv /root/etcd.yaml /etc/kubernetes/manifests")
    cluster.site("-e", json.dumps(QUOTA))
    assert sizes(cluster).keys() == before.keys()


@pytest.mark.long
def test_the_kubelet_stops_during_a_defragmentation(cluster: Lab) -> None:
    """It would kill an etcd whose defragmentation takes long."""
    fragment(cluster)
    containers = cluster.containers()
    cluster.sh("infra1", "systemctl stop kubelet")
    run = cluster.site("--limit", "infra1", playbook=DEFRAGMENT)
    assert run.changed() == {"infra1": 1}
    cluster.sh("infra1", "systemctl start kubelet")
    assert set(cluster.site(playbook=DEFRAGMENT).changed()) == {"infra0", "infra2"}
    assert cluster.containers() == containers


# tests/etcd has the same with etcd alone.
@pytest.mark.long
def test_a_full_database(cluster: Lab) -> None:
    """Of history, which is compacted up to the revision in the plan."""
    while big(cluster, "put", 0, 40) == 40:
        pass
    run = cluster.play("-e", json.dumps(QUOTA))
    assert run.code != 0 and "Run defragment.yml" in flat(run.output), run.output[-3000:]
    run = cluster.site("--check", "-e", "etcd_compact_keep_revisions=20", playbook=DEFRAGMENT)
    assert "alarm NOSPACE of" in flat(run.output) and "compacted to revision" in run.output
    run = cluster.site("-e", "etcd_compact_keep_revisions=20", playbook=DEFRAGMENT)
    assert set(run.changed()) == set(cluster.hosts) and healthy(cluster)
    assert cluster.site(playbook=DEFRAGMENT).changed() == {}


@pytest.mark.long
def test_a_database_that_is_full_of_keys(cluster: Lab) -> None:
    """Some of them are deleted; then the quota is raised."""
    while big(cluster, "put", 100, 400) == 300:
        pass
    assert big(cluster, "deleterange", 100, 150) == 50
    run = cluster.site("-e", "etcd_compact_keep_revisions=0", playbook=DEFRAGMENT)
    assert set(run.changed()) == set(cluster.hosts) and healthy(cluster) and big(cluster, "put", 100, 101) == 1
    while big(cluster, "put", 400, 700) == 300:
        pass
    run = cluster.play("-e", '{"etcd_extra_args": {"quota-backend-bytes": "4294967296"}}')
    assert run.code != 0 and "Run defragment.yml" in flat(run.output)
    run = cluster.site("-e", "etcd_defragment_threshold=100", playbook=DEFRAGMENT)
    assert "alarm NOSPACE of" in flat(run.output) and "compacted" not in run.output
    assert healthy(cluster) and big(cluster, "put", 100, 101) == 1
