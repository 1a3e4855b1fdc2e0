"""Two runs of restore.yml with different snapshots and one of site.yml at once, in any order of their steps on three hosts.

The steps are those of the modules; etcd and Ansible are simulated. The former cluster is lost, down, or healthy and to be replaced.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import processes as _processes
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import restore, staged
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import rollout as _rollout
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from test_wal import metadata, state

NAMES = ["infra0", "infra1", "infra2"]


def write_data(path: Path, cluster: int) -> None:
    (path / "member/wal").mkdir(parents=True)
    (path / "member/wal/0000000000000000-0000000000000000.wal").write_bytes(metadata(1, cluster) + state(1) + state(2))


class Fleet:
    """Three hosts. running: the cluster that a member runs in, by its name. served: clusters that have had a quorum since the runs were planned."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, before: str) -> None:
        self.root = root
        self.is_healthy = before == "healthy"
        self.running: dict[str, str] = dict.fromkeys(NAMES, "9") if self.is_healthy else {}
        self.served: set[str] = set()
        for name in NAMES:
            (root / name / "manifests").mkdir(parents=True)
            if before != "lost":
                write_data(root / name / "etcd", 9)
                (root / name / "manifests/etcd.yaml").touch()
        fakes: list[tuple[Any, str, Any]] = [
            (restore, "cluster_id", lambda _urls, token: token[-1]),
            (restore, "read_snapshot_file", lambda path: SimpleNamespace(path=path, size=1, is_database=True)),
            (restore, "free_bytes", lambda _path: 1 << 40),
            (restore, "has_kubernetes", lambda _path: False),
            (restore, "image_root", lambda *_: contextlib.nullcontext("image")),
            (restore, "_have_images", lambda _spec: None),
            (restore, "describe", lambda *_: {"storage": "", "version": "3.6.14", "revision": 7}),
            (restore, "run_alone", self.etcdutl),
            (restore, "end_etcd", self.end),
            (restore, "hold_host_lock", lambda *_: None),
            (restore, "probe", lambda url, _timeout: (self.is_ready(url.split("/")[2]), "")),
            (_rollout, "check_controller", lambda: None),
            (_processes, "find_etcd_process", self.process),
        ]
        for target, name, fake in fakes:
            monkeypatch.setattr(target, name, fake)

    def data(self, name: str) -> str:
        return staged.cluster_in(str(self.root / name / "etcd"))

    def process(self, name: str) -> Any:
        return _processes.Process(7, 1, [f"--listen-metrics-urls=http://{name}"]) if name in self.running else None

    def is_ready(self, name: str) -> bool:
        return list(self.running.values()).count(self.running.get(name, "")) > 1

    def etcdutl(self, _root: str, _program: str, argv: list[str], _timeout: float) -> Any:
        told = dict(zip(argv, argv[1:]))
        write_data(Path(told["--data-dir"]), int(told["--initial-cluster-token"][-1]))
        return SimpleNamespace(code=0, stdout="", stderr="")

    def end(self, name: str, manifest: str, *_: str) -> None:
        Path(manifest).unlink(missing_ok=True)
        self.running.pop(name, None)

    def start(self, name: str) -> None:
        """As the turn of a member."""
        data = str(self.root / name / "etcd")
        if name not in self.running and (staged.waiting_restore(data) or not self.data(name)):
            raise EtcdError("not started")
        (self.root / name / "manifests/etcd.yaml").touch()
        self.running.setdefault(name, self.data(name))
        if self.is_ready(name):
            self.served.add(self.running[name])

    def spec(self, name: str, token: str, former: str) -> restore.RestoreSpec:
        at = self.root / name
        return restore.RestoreSpec(
            f"/srv/{token}.db", token, name, [(item, "10.0.0.6") for item in NAMES], "image", former, self.is_healthy, data_dir=str(at / "etcd"),
            work_dir=str(at / "work"), manifests_dir=str(at / "manifests"),
        )  # fmt: skip

    def run_of_restore(self, token: str, chance: random.Random) -> Iterator[str]:
        """The steps of a run. All hosts take a step before the next one, which needs no failure. The last result is 'done'."""
        former = {name: self.data(name) for name in NAMES}
        for step in (*restore.STEPS, "start"):
            failed = False
            for name in chance.sample(NAMES, 3):
                try:
                    if step == "start":
                        self.start(name)
                    else:
                        restore.restore(self.spec(name, token, former[name]), step, False)
                except EtcdError:
                    failed = True
                yield step
            if failed:
                yield "failed"
                return
        yield "done"

    def run_of_site(self, chance: random.Random) -> Iterator[str]:
        for name in chance.sample(NAMES, 3):
            with contextlib.suppress(EtcdError):
                self.start(name)
            yield "start"


@pytest.mark.parametrize("before", ["lost", "down", "healthy"])
@pytest.mark.parametrize("seed", range(60))
def test_two_restores_and_site_yml_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, before: str
) -> None:
    """A quorum keeps what its cluster has acknowledged, a run that succeeds has restored its snapshot, and the next run finishes the rest."""
    fleet, chance = Fleet(tmp_path, monkeypatch, before), random.Random(seed)
    runs = [fleet.run_of_restore("token-2", chance), fleet.run_of_restore("token-3", chance), fleet.run_of_site(chance)]
    # All plans are made before the first step. The hosts are observed at the same moment.
    said = [next(run) for run in runs]
    active = list(range(3))
    while active:
        number = chance.choice(active)
        try:
            # One of them may be faster for a while.
            for _time in range(chance.choice([1, 1, 3, 9])):
                said[number] = next(runs[number])
        except StopIteration:
            active.remove(number)
        data = [fleet.data(name) for name in NAMES]
        for cluster in fleet.served - {"9" if fleet.is_healthy else ""}:
            assert data.count(cluster) > 1, (cluster, said)
        assert not {"2", "3"} <= {*data} and len({*fleet.running.values()}) < 2, (data, fleet.running)
        if "done" in said[:2]:
            assert fleet.served, said
    assert len(fleet.served - {"9"}) < 2 and said.count("done") < 2
    if fleet.running:
        return
    assert list(fleet.run_of_restore("token-4", chance))[-1] == "done" and "4" in fleet.served
