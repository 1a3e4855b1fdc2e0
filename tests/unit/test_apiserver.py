"""How a kube-apiserver reaches etcd: its manifest, kubeadm's ConfigMap, the differences, and the plan."""

from __future__ import annotations

import base64

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import apiserver as _apiserver
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.apiserver import EtcdAccess
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.cri import EXITED, RUNNING, Container
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.diagnosis import Evidence, causes
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.kubeadm import manifest_arguments
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

PKI = "/etc/kubernetes/pki"
A, B, C = (f"https://10.0.0.{number}:2379" for number in (6, 7, 8))


def access(*servers: str, **changes: str) -> EtcdAccess:
    files = {"ca": f"{PKI}/etcd/ca.crt", "cert": f"{PKI}/apiserver-etcd-client.crt"}
    return EtcdAccess(servers, **{**files, "key": f"{PKI}/apiserver-etcd-client.key", **changes})


def manifest(servers: str = f"{A},{B}", *extra: str, image: str = "v1.36.3", endpoint: str = "10.0.0.20:6443") -> str:
    """A manifest as kubeadm writes it, shortened."""
    flags = "".join(f"    - {flag}\n" for flag in extra)
    return f"""apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/kube-apiserver.advertise-address.endpoint: {endpoint}
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --allow-privileged=true
{flags}    - --etcd-cafile={PKI}/etcd/ca.crt
    - --etcd-certfile={PKI}/apiserver-etcd-client.crt
    - --etcd-keyfile={PKI}/apiserver-etcd-client.key
    - --etcd-servers={servers}
    image: registry.k8s.io/kube-apiserver:{image}
    name: kube-apiserver
status: {{}}
"""


def config(*urls: str, http: tuple[str, ...] | None = None, end: str = "kubernetesVersion: v1.36.3\n") -> str:
    """A ClusterConfiguration as kubeadm writes it, shortened."""
    items = "".join(f"    - {url}\n" for url in urls)
    also = "" if http is None else "    httpEndpoints:\n" + "".join(f"    - {url}\n" for url in http)
    return (
        'apiServer:\n  extraArgs:\n  - name: v\n    value: "2"\napiVersion: kubeadm.k8s.io/v1beta4\netcd:\n  external:\n'
        f"    caFile: {PKI}/etcd/ca.crt\n    certFile: {PKI}/apiserver-etcd-client.crt\n    endpoints:\n{items}{also}"
        f"    keyFile: {PKI}/apiserver-etcd-client.key\n{end}"
    )


# --- The manifest ----------------------------------------------------------------------------------------------------


def test_what_a_manifest_says_of_etcd() -> None:
    assert _apiserver.access_in(manifest_arguments(manifest())) == access(A, B)
    assert _apiserver.access_in(["kube-apiserver", "--etcd-servers=http://x:1"]) == EtcdAccess(("http://x:1",))
    assert _apiserver.access_in([]) == EtcdAccess()


@pytest.mark.parametrize(
    ("before", "wanted", "reasons"),
    [
        (access(A, B), access(A, B), []),
        (access(A, B), access(B, A), []),
        (access(A), access(A, B), [f"x.yaml: --etcd-servers: {A} -> {A},{B}"]),
        (access(A, B, C), access(A, C), [f"x.yaml: --etcd-servers: {A},{B},{C} -> {A},{C}"]),
        (access(A, ca="/x"), access(A), [f"x.yaml: --etcd-cafile: /x -> {PKI}/etcd/ca.crt"]),
        (access(A, key=""), access(A), [f"x.yaml: --etcd-keyfile: (none) -> {PKI}/apiserver-etcd-client.key"]),
    ],
)
def test_the_order_of_endpoints_means_nothing(before: EtcdAccess, wanted: EtcdAccess, reasons: list[str]) -> None:
    found = _apiserver.manifest_reasons("x.yaml", before, wanted)
    assert [reason.text for reason in found] == reasons and all(reason.restarts for reason in found)
    of_config = _apiserver.config_reasons(before, wanted)
    assert len(of_config) == len(reasons) and not any(reason.restarts for reason in of_config)


@pytest.mark.parametrize(
    ("text", "endpoint"), [("10.0.0.20:6443", ("10.0.0.20", 6443)), ("'[fd00::14]:7443'", ("fd00::14", 7443))]
)
def test_where_the_api_server_listens(text: str, endpoint: tuple[str, int]) -> None:
    assert _apiserver.endpoint_in(manifest(endpoint=text)) == endpoint


@pytest.mark.parametrize("text", ["", manifest(endpoint="nowhere"), manifest().replace("advertise-address", "x")])
def test_a_manifest_that_kubeadm_has_not_made(text: str) -> None:
    with pytest.raises(EtcdError, match="kubeadm did not make it"):
        _apiserver.endpoint_in(text)


@pytest.mark.parametrize(
    ("on_disk", "rendered", "found"),
    [
        (manifest(), manifest(), []),
        # What kubeadm up to 1.33 writes, and another order.
        (manifest().replace("metadata:\n", "metadata:\n  creationTimestamp: null\n"), manifest(), []),
        (manifest(f"{A},{B}", "--v=2", "--x=1"), manifest(f"{A},{B}", "--x=1", "--v=2"), []),
        (manifest(f"{A},{B}", "--v=4"), manifest(), ["--v=4 in the manifest, no --v by kubeadm"]),
        (manifest(), manifest(f"{A},{B}", "--v=4"), ["no --v in the manifest, --v=4 by kubeadm"]),
        (
            manifest(f"{A},{B}", "--v=2"),
            manifest(f"{A},{B}", "--v=4"),
            ["--v=2 in the manifest, --v=4 by kubeadm"],
        ),
        (
            manifest(image="v1.35.4"),
            manifest(),
            ["image: registry.k8s.io/kube-apiserver:v1.35.4 -> image: registry.k8s.io/kube-apiserver:v1.36.3"],
        ),
        (
            manifest().replace("status: {}", "  hostNetwork: true\nstatus: {}"),
            manifest(),
            ["hostNetwork: true removed"],
        ),
    ],
)
def test_what_else_kubeadm_would_change(on_disk: str, rendered: str, found: list[str]) -> None:
    assert _apiserver.differences(on_disk, rendered) == found
    problem = _apiserver.edited_problem("x.yaml", found)
    assert bool(problem) == bool(found) and all(text in problem for text in found)


def test_secrets_of_the_environment_are_not_shown() -> None:
    env = "    env:\n    - name: TOKEN\n      value: {}\n    image:"
    found = _apiserver.differences(manifest().replace("    image:", env.format("s3cret")), manifest())
    assert found and "s3cret" not in " ".join(found) and "TOKEN" in " ".join(found)


@pytest.mark.parametrize(
    ("uses", "listed", "words"),
    [
        (access(A, B), access(A, B), ""),
        (access(A, C), access(A, B), f"{C} is in x.yaml (--etcd-servers). Afterwards"),
        (access(A, C), access(A, C), f"{C} is in x.yaml (--etcd-servers) and ConfigMap kubeadm-config. Afterwards"),
        (access(A), access(C), f"{C} is in ConfigMap kubeadm-config. Afterwards"),
        (access(C), EtcdAccess(), "It has no other endpoint and would lose etcd"),
    ],
)
def test_a_member_that_leaves(uses: EtcdAccess, listed: EtcdAccess, words: str) -> None:
    said = _apiserver.leaving_warning("x.yaml", uses, listed, [C])
    assert (words in said) if words else not said


# --- The configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (config(A), config(A, B)),
        (config(A, B, C), config(A, B)),
        # kubeadm 1.36 and later write them twice.
        (config(A, http=(A,)), config(A, B, http=(A, B))),
        (config(A, end=""), config(A, B, end="")),
        # Written by hand, with the lists indented.
        (config(A).replace("    - https", "      - https"), config(A, B)),
        (config(A).replace(A, f'"{A}"'), config(A, B)),
    ],
)
def test_only_etcd_changes_in_a_configuration(before: str, after: str) -> None:
    assert _apiserver.access_in_config(before) == access(*([A, B, C] if C in before else [A]))
    assert _apiserver.with_access(before, access(A, B)) == after
    assert _apiserver.access_in_config(after) == access(A, B)
    assert _apiserver.with_access(after, access(A, B)) == after


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("etcd:\n  local:\n    dataDir: /var/lib/etcd\n", "stacked"),
        ("", "does not have the form that kubeadm writes"),
        ("etcd: {external: {endpoints: [x]}}\n", "does not have the form that kubeadm writes"),
        (config(), "does not have the form that kubeadm writes"),
        (config(A, http=(B,)), "does not have the form that kubeadm writes"),
        (config(A).replace("    caFile", "    other: 1\n    caFile"), "does not have the form that kubeadm writes"),
        (config(A).replace("    keyFile", "    # of us\n    keyFile"), "does not have the form that kubeadm writes"),
        (
            config(A).replace("  external:\n", "  external:\n    caFile: /x\n"),
            "does not have the form that kubeadm writes",
        ),
    ],
)
def test_a_configuration_that_is_not_understood(text: str, words: str) -> None:
    for act in (_apiserver.access_in_config, lambda it: _apiserver.with_access(it, access(A))):
        with pytest.raises(EtcdError, match=words):
            act(text)


def test_flags_that_overrule_the_configuration() -> None:
    assert _apiserver.unheeded_problem(manifest(), access(B, A)) == ""
    assert f"--etcd-servers: {A},{B} -> {C}" in _apiserver.unheeded_problem(manifest(), access(C))


def test_credentials_of_a_kubeconfig() -> None:
    text = "".join(
        f"    {name}-data: {base64.b64encode(name.encode()).decode()}\n"
        for name in ("certificate-authority", "client-certificate", "client-key")
    )
    assert {name: base64.b64decode(data).decode() for name, data in _apiserver.credentials_in(text).items()} == {
        name: name for name in ("certificate-authority", "client-certificate", "client-key")
    }
    for kubeconfig in ("", text.replace("client-key-data", "client-key")):
        with pytest.raises(EtcdError, match="client-key"):
            _apiserver.credentials_in(kubeconfig)


# --- Why it does not come up -----------------------------------------------------------------------------------------

UNIT = {"LoadState": "loaded", "ActiveState": "active", "SubState": "running"}
# What kube-apiserver 1.36.3 logged with an endpoint at which nothing listens.
LOG = (
    "2026-11-27T08:51:12.0Z stderr F W1127 08:51:12.1 1 logging.go:55] [core] grpc: addrConn.createTransport failed\n"
    '2026-11-27T08:51:20.1Z stderr F E1127 08:51:20.1 1 run.go:72] "command failed" err="error creating storage factory: context deadline exceeded"\n'
)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (LOG, "ended 20 s after its start with exit code 1: command failed: error creating storage factory: context"),
        (
            "2026-11-27T08:51:12Z stderr F Error: unknown flag: --x\n2026-11-27T08:51:12Z stderr F Usage:\n",
            "unknown flag",
        ),
        ("", "with exit code 1: Error"),
    ],
)
def test_why_kube_apiserver_does_not_come_up(log: str, words: str) -> None:
    item = Container("1", "kube-apiserver", 0, EXITED, created=101.0, started=101.0, finished=121.0, log_path="/p/l")
    item = Container(**{**item.__dict__, "exit_code": 1, "reason": "Error"})
    again = Container(**{**item.__dict__, "id": "2", "attempt": 1})
    seen = Evidence(100.0, 140.0, "p", UNIT, containers=[again, item], logs={"/p/l": log}, program="kube-apiserver")
    found = causes(seen)
    assert len(found) == 1 and found[0].program == "kube-apiserver" and words in found[0].text and found[0].final


def test_a_kube_apiserver_that_runs_has_no_cause() -> None:
    item = Container("1", "kube-apiserver", 0, RUNNING, created=101.0, started=101.0, log_path="/p/l")
    seen = Evidence(100.0, 140.0, "p", UNIT, containers=[item], logs={"/p/l": LOG}, program="kube-apiserver")
    assert causes(seen) == []
