"""The parts of the lab that need no host."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from labkit import archive, hosts, image, inventory, network, packages, pins, programs, settings
from labkit.cli import main
from labkit.process import LabError
from labkit.settings import Version

yaml = pytest.importorskip("yaml")


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.36.3", Version(1, 36, 3)),
        ("v1.36.3", Version(1, 36, 3)),
        (" 3.6.14\n", Version(3, 6, 14)),
        ("1.32.0", Version(1, 32, 0)),
    ],
)
def test_versions_are_read(text: str, version: Version) -> None:
    assert settings.parse_version(text) == version
    assert settings.parse_version(str(version)) == version


@pytest.mark.parametrize("text", ["", "1.36", "1.36.3-rc.0", "1.36.03", "1.36.3.4", "latest", "v", "-1.2.3"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(LabError, match=r"three numbers"):
        settings.parse_version(text)


def test_versions_are_ordered_by_number() -> None:
    assert Version(1, 36, 10) > Version(1, 36, 9) > Version(1, 9, 99)


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("lab", True),
        ("a-1", True),
        ("x", True),
        ("", False),
        ("Lab", False),
        ("a_b", False),
        ("-a", False),
        ("a" * 31, False),
    ],
)
def test_lab_names(name: str, good: bool) -> None:
    if good:
        assert settings.check_name(name) == name
    else:
        with pytest.raises(LabError, match="not a valid name for a lab"):
            settings.check_name(name)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"HOME": "/home/u"}, "/home/u/.cache/kubeadm-etcd-lab"),
        ({"HOME": "/home/u", "XDG_CACHE_HOME": "/cache"}, "/cache/kubeadm-etcd-lab"),
        ({"XDG_CACHE_HOME": "/cache", "KUBEADM_ETCD_LAB_DIR": "/labs"}, "/labs"),
    ],
)
def test_state_directory(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str) -> None:
    for name in ("XDG_CACHE_HOME", "KUBEADM_ETCD_LAB_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings.state_directory() == Path(expected)


@pytest.mark.parametrize(
    ("used", "wanted", "expected"),
    [
        ([], None, "10.89.36.0/24"),
        (["10.89.36.0/24"], None, "10.89.37.0/24"),
        (["10.89.36.128/25", "10.89.38.0/24"], None, "10.89.37.0/24"),
        # A route of the machine that covers the first subnets, single addresses, and the other address family.
        (["10.89.36.0/23", "10.89.38.7", "fd00::/8"], None, "10.89.39.0/24"),
        (["10.88.0.0/16"], "10.90.0.0/24", "10.90.0.0/24"),
        (["10.0.0.0/8"], "fd00:36::/64", "fd00:36::/64"),
    ],
)
def test_a_free_subnet_is_chosen(used: list[str], wanted: str | None, expected: str) -> None:
    assert str(network.choose_subnet(used, wanted)) == expected


@pytest.mark.parametrize(
    ("used", "wanted", "message"),
    [
        (["10.0.0.0/8"], None, "no subnet is free"),
        (["10.0.0.0/8"], "10.89.36.0/24", r"taken here \(by 10\.0\.0\.0/8\)"),
        ([], "10.89.36.1/24", "is not a subnet"),
        ([], "ten", "is not a subnet"),
        ([], "10.89.36.0/30", "too small"),
    ],
)
def test_a_subnet_that_is_taken_or_invalid_is_refused(used: list[str], wanted: str | None, message: str) -> None:
    with pytest.raises(LabError, match=message):
        network.choose_subnet(used, wanted)


@pytest.mark.parametrize(
    ("subnet", "index", "address", "gateway", "mac"),
    [
        ("10.89.36.0/24", 0, "10.89.36.10", "10.89.36.1", "02:4c:0a:59:24:0a"),
        ("10.89.36.0/24", 244, "10.89.36.254", "10.89.36.1", "02:4c:0a:59:24:fe"),
        ("fd00:36::/64", 2, "fd00:36::c", "fd00:36::1", "02:4c:00:00:00:0c"),
    ],
)
def test_addresses(subnet: str, index: int, address: str, gateway: str, mac: str) -> None:
    assert network.address(subnet, index) == address
    assert network.gateway(subnet) == gateway
    assert network.mac_address(address) == mac


def test_a_full_subnet_is_an_error() -> None:
    with pytest.raises(LabError, match="no address left"):
        network.address("10.89.36.0/24", 245)


def test_inventory_is_yaml_that_ansible_understands() -> None:
    two = [("infra0", "10.89.36.10"), ("infra1", "fd00:36::b")]
    text = inventory.render_inventory("probe", two, Path("/a b/key"), Path("/labs/known_hosts"))
    read = yaml.safe_load(text)["etcd"]
    assert read["hosts"] == {"infra0": {"ansible_host": "10.89.36.10"}, "infra1": {"ansible_host": "fd00:36::b"}}
    assert read["vars"]["ansible_user"] == "root"
    assert read["vars"]["ansible_ssh_private_key_file"] == "/a b/key"
    assert read["vars"]["ansible_python_interpreter"] == "/usr/bin/python3"
    arguments = read["vars"]["ansible_ssh_common_args"].split()
    assert "UserKnownHostsFile=/labs/known_hosts" in arguments
    assert "StrictHostKeyChecking=yes" in arguments


def test_known_hosts_are_found_by_name_and_address() -> None:
    text = inventory.render_known_hosts([("infra0", "10.89.36.10", "ssh-ed25519 AAAA comment\n")])
    assert text == "infra0,10.89.36.10 ssh-ed25519 AAAA\n"


def test_image_names_are_those_kubeadm_prints() -> None:
    printed = "registry.example/kube-apiserver:v1.36.3\nregistry.example/coredns/coredns:v1.14.1\n"
    printed += "registry.example/pause:3.10.2\nregistry.example/etcd:3.6.8-0\n"
    names = image.parse_image_list(printed)
    assert names == image.ImageNames(
        "registry.example/etcd:3.6.8-0", "registry.example/pause:3.10.2", "registry.example/kube-apiserver:v1.36.3"
    )
    with pytest.raises(LabError, match="no etcd, pause or kube-apiserver"):
        image.parse_image_list("registry.example/pause:3.10.2\n")


class Kept(programs.Store):
    """A store that has every program."""

    def get(self, project: programs.Project, version: Version, only: list[str] | None = None) -> dict[str, Path]:
        folder = self.directory(project, version)
        folder.mkdir(parents=True, exist_ok=True)
        for name in only or project.standard:
            (folder / name).write_bytes(b"\x7fELF")
        return {name: folder / name for name in only or project.standard}


def test_apiserver_image_has_kubeadms_tag_and_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "is_static", lambda _path: True)
    names = image.ImageNames("r/etcd:3", "r/pause:3", "r/kube-apiserver:v1.36.3")
    monkeypatch.setattr(image, "image_names", lambda _kubeadm, _version: names)
    images = image.Images(tmp_path, Kept(tmp_path))
    versions = image.VersionSet(Version(1, 36, 3), Version(3, 6, 14))
    target = images.apiserver(versions)
    assert re.fullmatch(r"kube-apiserver-v1\.36\.3-[0-9a-f]{12}\.tar", target.name)
    with tarfile.open(target) as outer:
        manifest = json.load(outer.extractfile("manifest.json") or io.BytesIO())
    assert manifest[0]["RepoTags"] == ["r/kube-apiserver:v1.36.3"]
    written = target.stat().st_mtime_ns
    assert images.apiserver(versions) == target and target.stat().st_mtime_ns == written


def test_hosts_that_were_added_last_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[list[str]] = []
    monkeypatch.setattr(hosts, "_remove", removed.append)
    monkeypatch.setattr(hosts.Lab, "container_states", lambda _lab: {"infra0": "running", "infra3": "running"})
    lab = hosts.Lab(tmp_path, "probe")
    monkeypatch.setattr(lab, "_write_files", lambda: None)
    lab.directory.mkdir(parents=True)
    lab._save(hosts.Facts("probe", "10.89.36.0/24", "1.36.3", "3.6.14", 4))
    for count in (0, -1, 4):
        with pytest.raises(LabError, match="cannot be removed"):
            lab.remove(count)
    assert lab.remove(1) == ["infra3"] and lab.host_names() == ["infra0", "infra1", "infra2"]
    assert removed == [["probe-infra3"]]


@pytest.mark.parametrize(
    ("expected", "version", "tags"),
    [
        ("r.example/etcd:3.6.8-0", Version(3, 6, 14), ["r.example/etcd:3.6.8-0", "r.example/etcd:3.6.14-0"]),
        ("r.example/etcd:3.6.8-0", Version(3, 6, 8), ["r.example/etcd:3.6.8-0"]),
        (
            "r.example:5000/k/etcd:3.5.24-0",
            Version(3, 5, 35),
            ["r.example:5000/k/etcd:3.5.24-0", "r.example:5000/k/etcd:3.5.35-0"],
        ),
    ],
)
def test_etcd_image_carries_kubeadms_tag_and_its_own(expected: str, version: Version, tags: list[str]) -> None:
    assert image.etcd_tags(expected, version) == tags


def test_host_image_tag_tells_versions_and_content() -> None:
    versions = image.VersionSet(Version(1, 36, 3), Version(3, 6, 14))
    tag = image.host_image_tag(versions, "0123456789ab")
    assert tag.endswith("/host:k1.36.3-e3.6.14-0123456789ab")
    assert re.fullmatch(r"[\w./-]+:[\w.-]{1,128}", tag)


def test_content_hash_depends_on_names_and_contents_only() -> None:
    one = image.content_hash([("a", b"1"), ("b", b"2")])
    assert one == image.content_hash([("b", b"2"), ("a", b"1")])
    assert (
        len({one, image.content_hash([("a", b"12"), ("b", b"")]), image.content_hash([("a", b"1"), ("c", b"2")])}) == 3
    )


def test_archive_is_one_containerd_can_import(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF")
    target = tmp_path / "image.tar"
    archive.write_archive(target, {"usr/local/bin/etcd": program}, ["r/etcd:1", "r/etcd:2"], ["/usr/local/bin/etcd"])
    first = target.read_bytes()
    with tarfile.open(target) as outer:
        manifest = json.load(outer.extractfile("manifest.json") or io.BytesIO())
        config = json.load(outer.extractfile(manifest[0]["Config"]) or io.BytesIO())
        layer = (outer.extractfile(manifest[0]["Layers"][0]) or io.BytesIO()).read()
    assert manifest[0]["RepoTags"] == ["r/etcd:1", "r/etcd:2"]
    assert config["config"]["Entrypoint"] == ["/usr/local/bin/etcd"]
    with tarfile.open(fileobj=io.BytesIO(layer)) as inner:
        assert [(m.name, m.mode, m.uid) for m in inner] == [
            ("usr", 0o755, 0),
            ("usr/local", 0o755, 0),
            ("usr/local/bin", 0o755, 0),
            ("usr/local/bin/etcd", 0o755, 0),
        ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.tar", "program"]
    archive.write_archive(target, {"usr/local/bin/etcd": program}, ["r/etcd:1", "r/etcd:2"], ["/usr/local/bin/etcd"])
    assert target.read_bytes() == first


UPSTREAM = """module k8s.io/kubernetes

go 1.26.0

godebug default=go1.26

require k8s.io/api v0.0.0

replace (
\tk8s.io/api => ./staging/src/k8s.io/api
\tk8s.io/cri-api => ./staging/src/k8s.io/cri-api
)
"""


def test_pins_replace_staging_modules_by_published_ones() -> None:
    text = pins.render_go_mod(programs.KUBERNETES, Version(1, 32, 13), UPSTREAM, {"cri-api": "v0.33.13"}, ["kubeadm"])
    assert "\ngo 1.26.0\n" in text
    assert "\ngodebug default=go1.26\n" in text
    assert "\tk8s.io/kubernetes v1.32.13\n" in text
    assert "\tk8s.io/api => k8s.io/api v0.32.13\n" in text
    assert "\tk8s.io/cri-api => k8s.io/cri-api v0.33.13\n" in text
    assert programs.is_pinned(text, programs.KUBERNETES.packages["kubeadm"])
    assert not programs.is_pinned(text, programs.KUBERNETES.packages["kubelet"])


@pytest.mark.parametrize("project", [programs.KUBERNETES, programs.ETCD], ids=lambda p: str(p.name))
def test_committed_pins_are_complete(project: programs.Project) -> None:
    versions = programs.pinned_versions(project)
    assert (
        settings.parse_version(settings.DEFAULT_ETCD if project is programs.ETCD else settings.DEFAULT_KUBERNETES)
        in versions
    )
    for version in versions:
        go_mod = (project.pins(version) / "go.mod").read_text()
        assert (project.pins(version) / "go.sum").stat().st_size > 10000
        assert f" v{version}" in go_mod
        assert programs.is_pinned(go_mod, next(iter(project.packages.values())))
        assert "./" not in go_mod


@pytest.mark.parametrize(
    ("text", "version"),
    [("go1.26.8", (1, 26, 8)), ("go version go1.19 linux/amd64", (1, 19, 0)), ("go1.27rc1", (1, 27, 0)), ("", None)],
)
def test_go_versions_are_read(text: str, version: tuple[int, int, int] | None) -> None:
    assert programs.parse_go_version(text) == version


def test_packages_are_those_of_kubernetes(tmp_path: Path) -> None:
    """dpkg can read the packages, and the index describes them. With restarts, the kubelet's package restarts it."""
    built = {name: tmp_path / name for name in ("kubeadm", "kubelet")}
    for path in built.values():
        path.write_text("#!/bin/sh\n")
    for script in ("", packages.RESTARTS):
        kubeadm, kubelet = packages.packages_of(Version(1, 37, 2), built, script)
        assert kubelet.after == script and not kubeadm.after
    path = packages.make_package(kubelet, tmp_path)
    listed = subprocess.run(["dpkg-deb", "--contents", str(path)], check=True, capture_output=True, text=True).stdout
    assert "-rwxr-xr-x root/root" in listed and "./usr/bin/kubelet" in listed and "kubelet.service" in listed
    entry = packages.index_entry(kubelet, path.read_bytes())
    assert f"Filename: ./{path.name}\nSize: {path.stat().st_size}\nSHA256: " in entry
    assert entry.startswith("Package: kubelet\nVersion: 1.37.2-1.1\n") and [*tmp_path.glob(".*")] == []


def test_packages_for_dnf_are_those_of_kubernetes(tmp_path: Path) -> None:
    """rpm itself reads them in tests/integration/test_packages_dnf.py."""
    built = {name: tmp_path / name for name in ("kubeadm", "kubelet")}
    kubeadm, kubelet = packages.packages_of(Version(1, 37, 2), built, packages.RESTARTS_RPM)
    spec = packages.spec_of(kubelet, tmp_path)
    assert "Name: kubelet\nVersion: 1.37.2\nRelease: 1.1\n" in spec and f"%post\n{packages.RESTARTS_RPM}" in spec
    assert spec.endswith("%files\n/usr/bin/kubelet\n/usr/lib/systemd/system/kubelet.service\n")
    assert "%post" not in packages.spec_of(kubeadm, tmp_path)


def test_kubernetes_programs_are_built_with_their_version() -> None:
    flags = programs.linker_flags(programs.KUBERNETES, Version(1, 36, 3))
    assert "version.gitVersion=v1.36.3 " in flags
    assert "version.gitMinor=36 " in flags
    assert programs.linker_flags(programs.ETCD, Version(3, 6, 14)) == "-s -w"


def test_programs_given_by_the_user_come_first_if_they_are_of_the_version(tmp_path: Path) -> None:
    given, state = tmp_path / "given", tmp_path / "state"
    given.mkdir()
    kubeadm = given / "kubeadm"
    kubeadm.write_text("#!/bin/sh\necho kubeadm version: v1.36.3\n")
    kubeadm.chmod(0o755)
    store = programs.Store(state, given)
    cached = store.directory(programs.KUBERNETES, Version(1, 35, 4)) / "kubeadm"
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert store.find(programs.KUBERNETES, Version(1, 36, 3), "kubeadm") == kubeadm
    assert store.find(programs.KUBERNETES, Version(1, 35, 4), "kubeadm") == cached
    assert store.find(programs.KUBERNETES, Version(1, 34, 4), "kubeadm") is None
    with pytest.raises(LabError, match="is not a directory"):
        programs.Store(state, given / "kubeadm")


def test_static_programs_are_told_from_dynamic_ones() -> None:
    assert not programs.is_static(Path(sys.executable).resolve())
    assert not programs.is_static(Path(__file__))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "--name", "nosuchlab"], "there is no lab 'nosuchlab'"),
        (["inventory", "--name", "Not A Name"], "is not a valid name for a lab"),
        (["programs", "--kubernetes", "1.36"], "three numbers"),
        (["programs", "--kubernetes", "1.99.0"], "kubeadm 1.99.0 is not here"),
        (["build", "--only", "kubeadm", "--kubernetes", "1.99.0"], "nor pinned"),
        (["build", "--only", "kubelet", "--kubernetes", "1.32.13"], "cannot be built"),
        (["build", "--only", "kubefoo"], "the programs are"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("KUBEADM_ETCD_LAB_DIR", str(tmp_path))
    monkeypatch.delenv("KUBEADM_ETCD_LAB_PROGRAMS", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("lab: ")
    assert message in error
    assert error.count("\n") == 1


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main(["up"]) == 1
    assert "needs root" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "command", "state"),
    [
        ("running", b"/sbin/init\0", "running"),
        ("running", b"", "killed"),
        ("running", None, "killed"),
        ("running", b"/usr/bin/other\0", "killed"),
        ("stopping", None, "killed"),
        ("exited", None, "exited"),
        ("created", None, "created"),
    ],
)
def test_a_host_that_was_killed_with_podman(tmp_path: Path, told: str, command: bytes | None, state: str) -> None:
    """podman still reports it as running, but its process is gone."""
    if command is not None:
        (tmp_path / "17").mkdir()
        (tmp_path / "17" / "cmdline").write_bytes(command)
    assert hosts._state(told, 17, tmp_path) == state


def test_labs_that_start_at_once_build_pause_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(command: list[str]) -> None:
        built.append(command[0])
        time.sleep(0.1)
        Path(command[command.index("-o") + 1]).touch()

    monkeypatch.setattr(programs, "run", build)
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(programs.build_pause, [tmp_path] * 3)) == {tmp_path / "programs" / "pause"}
    assert built == ["gcc"]
