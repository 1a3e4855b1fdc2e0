# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The archive of the etcd image, a file on the controller: what is in it, and why it would not help the hosts that lack it."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable

# tarfile cannot look into it before Python 3.14; containerd can.
_ZSTD = b"\x28\xb5\x2f\xfd"

# containerd's own annotation of an image in an OCI layout (containerd, images/annotations.go), and that of the OCI image
# specification, which is a full name or a tag alone.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def archive_problems(path: str, wanted: Iterable[str]) -> list[str]:
    """Why the archive cannot be imported, or does not hold the images that are wanted. path: '' where there is none."""
    if not path:
        return []
    if not os.path.isfile(path):
        return [f"etcd_image_archive: {path} is no file on the controller. Name one, as `ctr images export` writes it."]
    lacking = sorted(set(wanted))
    try:
        names = image_names(path) if lacking else []
    except Exception as exc:
        # tarfile lets through what decompressors raise, and what is in the files can be anything.
        return [
            f"etcd_image_archive: {path} cannot be read as an image archive ({exc}). `ctr images export` writes one."
        ]
    return [
        f"etcd_image_archive: {path} has {', '.join(names)}, and not {image}, which hosts of this cluster lack. Export that image,"
        " or set etcd_image_repository and etcd_image_tag to the one that it has."
        for image in lacking
        if names and image not in names
    ]


def image_names(path: str) -> list[str]:
    """Full names of the images in an archive of docker or of the OCI; empty where it has none, or cannot be looked into."""
    with open(path, "rb") as handle:
        if handle.read(len(_ZSTD)) == _ZSTD:
            return []
    found: list[str] = []
    with tarfile.open(path) as archive:
        members = {os.path.normpath(member.name): member for member in archive.getmembers() if member.isfile()}
        for name in ("manifest.json", "index.json"):
            stream = archive.extractfile(members[name]) if name in members else None
            if stream is None:
                continue
            data = json.loads(stream.read())
            for item in data if name == "manifest.json" else data.get("manifests", []):
                annotations = item.get("annotations") or {}
                found += [*(item.get("RepoTags") or []), *(annotations[key] for key in _NAMES if key in annotations)]
    return sorted({full_name(name) for name in found if "/" in name or ":" in name})


def full_name(image: str) -> str:
    """The name of an image as containerd has it: docker leaves out its own registry."""
    registry, slash, _rest = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in registry or ":" in registry or registry == "localhost" else f"docker.io/{image}"
