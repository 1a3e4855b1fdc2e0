"""Why etcd does not start, on a real host: the messages of kubelet, containerd and etcd.

The member of one host is broken in several ways. More recordings are in tests/unit/diagnosis.
"""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import LAB_NAME, ROOT, Lab

# What a run says of these causes is in test_first_run.py.
pytestmark = pytest.mark.long

HOST = "infra0"
PLACE = "/root/diagnosis"
ENDPOINT = "unix:///run/containerd/containerd.sock"
MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"
MODULE = "ansible_collections.kubeadm.etcd.plugins.module_utils._host.diagnosis"
PARTS = (
    *(f"_values/{name}.py" for name in ("errors", "paths", "problems", "to_yaml")),
    *(f"_host/{name}.py" for name in ("cri", "diagnosis", "files", "kubelet", "log", "process")),
)

# Makes a change, and asks for the cause until the first one ("first"), a final one ("final") or the end of the time. Prints each new answer.
WATCH = f"""
import dataclasses, json, os, subprocess, sys, time
from {MODULE} import diagnose
change, until, limit = sys.argv[1], sys.argv[2], float(sys.argv[3])
since, said, causes = time.time(), [], []
text = open("/root/good.yaml").read()
exec(change)
open("/etc/kubernetes/next.yaml", "w").write(text)
os.rename("/etc/kubernetes/next.yaml", "{MANIFEST}")
while time.time() - since < limit and not any(cause.final or until == "first" for cause in causes):
    causes = diagnose(since, "{ENDPOINT}")
    found = [dataclasses.asdict(cause) for cause in causes]
    if not said or said[-1][1] != found:
        said.append((round(time.time() - since, 1), found))
    time.sleep(0.5)
print(json.dumps(said))
"""


def install(lab: Lab) -> None:
    """Bring the code for hosts, as a module would, and what runs it."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        # Small, since it must fit into an argument.
        for name in PARTS:
            tar.add(
                ROOT / "plugins" / "module_utils" / name,
                f"ansible_collections/kubeadm/etcd/plugins/module_utils/{name}",
            )
    encoded = base64.b64encode(archive.getvalue()).decode()
    lab.sh(HOST, f"mkdir -p {PLACE} && echo {encoded} | base64 -d | tar -xzC {PLACE} && cp {MANIFEST} /root/good.yaml")
    lab.sh(HOST, f"cat > {PLACE}/watch.py <<'EOF'\n{WATCH}\nEOF")


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    """One host with a cluster of one."""
    it = Lab(f"{LAB_NAME}-diagnosis", [HOST])
    it("up", "--hosts", "1")
    it.site()
    install(it)
    yield it
    if not os.environ.get("KUBEADM_ETCD_KEEP_LAB"):
        it("down")


def watch(host: Lab, change: str, until: str = "final", limit: float = 50.0) -> list[Any]:
    """Make a change in Python (text: the manifest), and return the answers: seconds and causes."""
    script = f"cd / && PYTHONPATH={PLACE} python3 {PLACE}/watch.py '{change}' {until} {limit}"
    said: list[Any] = json.loads(host.sh(HOST, script).splitlines()[-1])
    print(json.dumps(said, indent=1))
    return said


def cause_in(said: list[Any], is_final: bool) -> dict[str, Any]:
    """The one cause of the last answer."""
    seconds, (cause,) = said[-1]
    assert cause["final"] == is_final and seconds < 45
    found: dict[str, Any] = cause
    return found


def test_a_manifest_that_is_refused(host: Lab) -> None:
    said = watch(host, 'text = text.replace("  name: etcd\\n", "  name: etcd_0\\n", 1)')
    cause = cause_in(said, is_final=True)
    assert (cause["code"], cause["program"]) == ("manifest", "kubelet") and said[-1][0] < 10
    assert 'Invalid value: "etcd_0-infra0"' in cause["text"]


def test_a_flag_that_etcd_refuses(host: Lab) -> None:
    said = watch(host, 'text = text.replace("    - --name=", "    - --quota-backend-bytes=8G\\n    - --name=")')
    cause = cause_in(said, is_final=True)
    assert (cause["code"], cause["program"]) == ("flag", "etcd")
    assert cause["text"] == 'invalid value "8G" for flag -quota-backend-bytes: parse error'


def test_an_image_that_cannot_be_pulled(host: Lab) -> None:
    """The registry may answer later. After ten seconds and one more attempt the cause is final (tests/unit/test_diagnosis.py)."""
    said = watch(host, 'text = text.replace("registry.k8s.io", "registry.invalid/k8s")', until="first")
    cause = cause_in(said, is_final=False)
    assert (cause["code"], cause["program"]) == ("image", "kubelet")
    assert 'failed to resolve reference "registry.invalid/k8s/etcd:' in cause["text"]


def test_a_sandbox_that_cannot_be_made(host: Lab) -> None:
    config = "/etc/containerd/config.toml"
    other = 's|sandbox_image = .*|sandbox_image = "registry.k8s.io/pause:3.99"|'
    host.sh(HOST, f"cp {config} /root/config.toml && sed -i '{other}' {config} && systemctl restart containerd")
    try:
        cause = cause_in(watch(host, "pass", until="first"), is_final=False)
    finally:
        host.sh(HOST, f"cp /root/config.toml {config} && systemctl restart containerd")
    assert (cause["code"], cause["program"]) == ("sandbox", "kubelet")
    assert 'failed to get sandbox image "registry.k8s.io/pause:3.99"' in cause["text"]


def test_a_kubelet_that_a_file_of_the_host_keeps_from_starting(host: Lab) -> None:
    path = "/etc/systemd/system/kubelet.service.d/90-site.conf"
    lines = "[Service]\\nExecStart=\\nExecStart=/usr/bin/kubelet --no-such-flag\\n"
    host.sh(HOST, f"printf '{lines}' > {path} && systemctl daemon-reload")
    try:
        cause = cause_in(watch(host, 'subprocess.run(["systemctl", "restart", "kubelet"])'), is_final=True)
    finally:
        host.sh(HOST, f"rm {path} && systemctl daemon-reload && systemctl restart kubelet")
    assert (cause["code"], cause["program"]) == ("kubelet", "kubelet")
    assert "unknown flag: --no-such-flag" in cause["text"] and path in cause["text"]


def test_nothing_is_wrong_with_a_member_that_comes_up(host: Lab) -> None:
    said = watch(host, "pass", limit=6)
    assert not any(cause["final"] for _seconds, causes in said for cause in causes), said


# A registry that knows nothing, and wants a password under /v2/secret.
REGISTRY = """
import http.server
class Registry(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401 if "/secret" in self.path else 404)
        self.send_header("WWW-Authenticate", "Basic realm=x")
        self.end_headers()
    do_HEAD = do_GET
http.server.HTTPServer(("127.0.0.1", 5999), Registry).serve_forever()
"""


def test_images_are_pulled_or_the_error_is_returned(host: Lab) -> None:
    """containerd itself, asked over its socket."""
    image = host.sh(HOST, "sed -n 's/^ *image: *//p' /root/good.yaml").strip()
    names = [
        image,
        "127.0.0.1:5999/k8s/etcd:9",
        "127.0.0.1:5999/secret/etcd:9",
        "registry.invalid/k8s/etcd:9",
        "Not valid",
    ]
    program = (
        f"import json, time\nfrom {MODULE} import ensure_image\nfound = []\n"
        f"for name in {names!r}:\n"
        f"    begin, cause = time.monotonic(), ensure_image('{ENDPOINT}', name, 5.0)\n"
        "    found.append([time.monotonic() - begin, cause and [cause.code, cause.text, cause.final]])\n"
        "print(json.dumps(found))\n"
    )
    script = (
        f"cat > {PLACE}/registry.py <<'EOF'\n{REGISTRY}\nEOF\ncat > {PLACE}/pull.py <<'EOF'\n{program}\nEOF\n"
        f"python3 {PLACE}/registry.py >/dev/null 2>&1 & sleep 1; PYTHONPATH={PLACE} python3 {PLACE}/pull.py; kill $!"
    )
    found = json.loads(host.sh(HOST, script).splitlines()[-1])
    print(json.dumps(found, indent=1))
    assert all(seconds < 6 for seconds, _cause in found) and found[0][1] is None
    (missing, secret, unreachable, invalid) = [cause for _seconds, cause in found[1:]]
    assert {cause[0] for _seconds, cause in found[1:]} == {"image"}
    assert missing[1].endswith("not found") and missing[2]
    assert "401 Unauthorized" in secret[1] and secret[2]
    assert "registry.invalid" in unreachable[1] and not unreachable[2]
    assert "invalid reference format" in invalid[1] and invalid[2]
