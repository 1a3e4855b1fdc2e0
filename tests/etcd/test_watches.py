"""200 000 keys, a real kube-apiserver and a client with a watch: quorum is destroyed, then everything, and one snapshot brings it back twice."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.restore import (
    SECONDS,
    cluster_id,
    read_snapshot_file,
    restore_token,
)
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import count_keys
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import backup as _backup
from ansible_collections.kubeadm.etcd.plugins.module_utils._member import restore as _restore

from tests.tools.kube import MAPS, Api, Watch

from .conftest import ADDRESSES, LAB, Cluster, Make, encoded, wait_until
from .test_snapshot import programs, spec_for, with_programs

__all__ = ["programs"]

pytestmark = pytest.mark.long

KEYS = int(os.environ.get("KUBEADM_ETCD_KEYS", "200000"))
ADDRESS, TOKEN = "10.77.0.100", "a-token"


class Apiserver:
    """A kube-apiserver on the members of a cluster."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        # Built outside of the network of the tests, as etcd is.
        outside = ["nsenter", f"--net=/proc/{os.getppid()}/ns/net", "--"]
        argv = [*outside, str(LAB), "build", "--only", "kube-apiserver"]
        program = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE, timeout=1800).stdout.strip()
        directory.mkdir()
        subprocess.run(["openssl", "genrsa", "-out", str(directory / "sa.key"), "2048"], check=True, capture_output=True, timeout=60)  # fmt: skip
        (directory / "tokens").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        ca, cert, key = cluster[0].files
        self.log = directory / "log"
        self.argv = [
            program,
            f"--etcd-servers={','.join(member.endpoint for member in cluster.members)}",
            f"--etcd-cafile={ca}",
            f"--etcd-certfile={cert}",
            f"--etcd-keyfile={key}",
            f"--service-account-key-file={directory / 'sa.key'}",
            f"--service-account-signing-key-file={directory / 'sa.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--token-auth-file={directory / 'tokens'}",
            "--authorization-mode=RBAC",
            "--disable-admission-plugins=ServiceAccount",
            "--service-cluster-ip-range=10.96.0.0/24",
            f"--cert-dir={directory / 'certs'}",
            f"--bind-address={ADDRESS}",
            f"--advertise-address={ADDRESS}",
        ]
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.api = Api(ADDRESS, context, {"Authorization": f"Bearer {TOKEN}"})
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.argv], stdout=log, stderr=log
            )
        wait_until(f"kube-apiserver is not ready: {self.log}", self.is_ready, 180)

    def is_ready(self) -> bool:
        assert self.process and self.process.poll() is None, self.log.read_text()[-3000:]
        return self.api.is_ready()

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(30)


def restored(cluster: Cluster, path: str, data: set[str]) -> None:
    """By the steps of the module, on all hosts, as a run at this moment would."""
    members = [(name, ADDRESSES[name]) for name in cluster.names]
    urls = _restore.peer_urls_of(members, 2380)
    token = restore_token(read_snapshot_file(path).identity, urls, data, int(time.time() / SECONDS))
    for member in cluster.members:
        spec = _restore.RestoreSpec(
            path, token, member.name, members, "", data_dir=str(member.data), work_dir=str(member.directory / "work"),
            manifests_dir=str(member.directory / "none"),
        )  # fmt: skip
        _restore.prepare(spec, False)
        _restore.replace_data(spec, False)
    for member in cluster.members:
        member.start("existing", cluster.names)
    cluster.wait()
    with cluster[0].client() as client:
        assert f"{client.status().cluster_id:x}" == cluster_id(urls, token)


@pytest.mark.usefixtures("programs")
def test_200_000_keys(make_cluster: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot is taken under load. Everything up to its revision comes back, and nothing else; new writes work; no revision is seen twice."""
    with_programs(tmp_path, "3.6.14")
    monkeypatch.setattr(_restore, "image_root", _backup.image_root)
    monkeypatch.setattr(_restore, "_have_images", lambda _spec: None)
    monkeypatch.setattr(_restore._processes, "find_etcd_process", lambda _name: None)
    cluster = make_cluster(3, "3.6.14")
    cluster.found()
    with cluster[0].client(timeout=30.0) as client:
        for begin in range(0, KEYS, 100):
            puts = [{"requestPut": {"key": encoded(f"/registry/bulk/{n:07}"), "value": encoded(f"v{n}")}} for n in range(begin, begin + 100)]  # fmt: skip
            client.call("kv/txn", {"success": puts})
    server = Apiserver(cluster, tmp_path / "apiserver")
    api, watch = server.api, Watch(server.api)
    try:
        server.start()
        watch.start()
        with api.creating() as created:
            wait_until("nothing is created", lambda: len(created) > 50)
            taken = _backup.take(spec_for(cluster, cluster[1]))
            count = len(created)
            wait_until("nothing is created", lambda: len(created) > count + 50)
        revision = taken["snapshot"]["revision"]
        before = {name for name, at in created.items() if at <= revision}
        assert 50 < len(before) < len(created)
        print(f"{KEYS} keys, revision {revision}, {len(before)} of {len(created)} ConfigMaps are in the snapshot")

        def check(former: int) -> int:
            """What is there. Returns the revision of a new write."""
            with cluster[0].client(timeout=30.0) as client:
                found = client.call("kv/range", {"key": encoded("/registry/bulk/"), "range_end": encoded("/registry/bulk0"), "count_only": True})  # fmt: skip
                assert int(found["count"]) == KEYS
                # What there was at the snapshot, in the numbers of the restored cluster.
                assert count_keys(client, revision) == -1
            assert api.names() == before
            new = api.create(f"new-{former}")
            assert new > former
            api.request("DELETE", f"{MAPS}/new-{former}").read()
            wait_until(f"the watch does not follow: {watch.seen}", lambda: watch.seen >= new, 60)
            return new

        former = max(created.values())
        server.stop()
        cluster.power_cut()
        for member in cluster.members[1:]:
            shutil.rmtree(member.data)
        begin = time.monotonic()
        restored(cluster, taken["path"], {"c1"})
        server.start()
        print(f"quorum destroyed: restored in {time.monotonic() - begin:.0f} s")
        former = check(former)
        for number in range(50):
            former = api.create(f"later-{number}")
        server.stop()
        cluster.power_cut()
        for member in cluster.members:
            shutil.rmtree(member.data)
        begin = time.monotonic()
        restored(cluster, taken["path"], set())
        server.start()
        print(f"everything destroyed: restored in {time.monotonic() - begin:.0f} s")
        check(former)
        print(f"watch: {watch.events} events, {watch.lists} lists, {watch.expired} times too old, back: {watch.back}")
        assert watch.events > 100 and watch.expired >= 2 and watch.back == []
    finally:
        watch.done.set()
        server.stop()
