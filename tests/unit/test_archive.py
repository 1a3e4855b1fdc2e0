"""Archives of images, as docker, containerd and others write them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._control import archive as _archive

IMAGE = "registry.k8s.io/etcd:3.6.14-0"


def write(path: Path, mode: str = "w", prefix: str = "", **files: Any) -> str:
    with tarfile.open(str(path), mode) as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"{prefix}{name}.json")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def oci(**annotations: str) -> dict[str, Any]:
    return {"schemaVersion": 2, "manifests": [{"digest": "sha256:0", "annotations": annotations}]}


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (
            {"manifest": [{"RepoTags": [IMAGE, "registry.k8s.io/etcd:3.6.8-0"]}]},
            [IMAGE, "registry.k8s.io/etcd:3.6.8-0"],
        ),
        ({"index": oci(**{"io.containerd.image.name": IMAGE})}, [IMAGE]),
        ({"index": oci(**{"org.opencontainers.image.ref.name": IMAGE})}, [IMAGE]),
        # A tag alone does not identify the image, nor does an empty name.
        ({"index": oci(**{"org.opencontainers.image.ref.name": "3.6.14-0"})}, []),
        ({"index": {"manifests": [{"digest": "sha256:0"}]}, "manifest": [{"RepoTags": None}]}, []),
        ({"other": {}}, []),
        # docker leaves out its own registry, containerd does not.
        ({"manifest": [{"RepoTags": ["etcd:1"]}]}, ["docker.io/library/etcd:1"]),
        ({"manifest": [{"RepoTags": ["me/etcd:1"]}]}, ["docker.io/me/etcd:1"]),
        (
            {"manifest": [{"RepoTags": ["localhost/etcd:1", "box:5000/etcd:1"]}]},
            ["box:5000/etcd:1", "localhost/etcd:1"],
        ),
    ],
)
def test_image_names_in_archives(tmp_path: Path, files: dict[str, Any], names: list[str]) -> None:
    assert _archive.image_names(write(tmp_path / "a.tar", **files)) == names
    assert _archive.image_names(write(tmp_path / "a.tgz", "w:gz", "./", **files)) == names


def test_problems_of_an_archive(tmp_path: Path) -> None:
    other = write(tmp_path / "other.tar", manifest=[{"RepoTags": ["registry.k8s.io/pause:3.10"]}])
    unnamed = write(tmp_path / "unnamed.tar", index=oci())
    text, compressed = tmp_path / "text.tar", tmp_path / "etcd.tar.zst"
    text.write_text("no archive", encoding="utf-8")
    compressed.write_bytes(b"\x28\xb5\x2f\xfd...")
    assert "is not a file" in _archive.archive_problems(str(tmp_path / "none"), [])[0]
    assert (
        f"contains registry.k8s.io/pause:3.10, but hosts of this cluster lack {IMAGE}"
        in _archive.archive_problems(other, [IMAGE, IMAGE])[0]
    )
    assert "is not an image archive" in _archive.archive_problems(str(text), [IMAGE])[0]
    strange = write(tmp_path / "strange.tar", manifest={"a": 1})
    assert "is not an image archive" in _archive.archive_problems(strange, [IMAGE])[0]
    # No host lacks the image, or the archive cannot be read: then the import is tried.
    for path, wanted in (("", [IMAGE]), (other, []), (str(text), []), (unnamed, [IMAGE]), (str(compressed), [IMAGE])):
        assert _archive.archive_problems(path, wanted) == [], path
