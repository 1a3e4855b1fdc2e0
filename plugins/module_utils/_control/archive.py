# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The archive of the etcd image, a file on the controller: which images it contains, and whether they are the ones that hosts lack."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable

# The magic number of zstd. containerd imports such archives, but tarfile reads them only since Python 3.14.
_ZSTD = b"\x28\xb5\x2f\xfd"

# Annotations with the name of an image in an OCI layout: containerd's own (images/annotations.go), and that of the OCI image
# specification, a full name or only a tag.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


def archive_problems(path: str, wanted: Iterable[str]) -> list[str]:
    """Why the archive cannot be imported, or lacks a wanted image. path: '' if there is no archive."""
    if not path:
        return []
    if not os.path.isfile(path):
        return [
            f"etcd_image_archive: {path} is not a file on the controller. Set it to a file that `ctr images export` has written."
        ]
    lacking = sorted(set(wanted))
    try:
        names = image_names(path) if lacking else []
    except Exception as exc:
        # Decompressors raise exceptions of their own, and the content of the files is arbitrary.
        return [f"etcd_image_archive: {path} is not an image archive ({exc}). Write one with `ctr images export`."]
    return [
        f"etcd_image_archive: {path} contains {', '.join(names)}, but hosts of this cluster lack {image}. Export that image, or set"
        " etcd_image_repository and etcd_image_tag to the image in the archive."
        for image in lacking
        if names and image not in names
    ]


def image_names(path: str) -> list[str]:
    """Full names of the images in a docker or OCI archive; empty if it has none, or is compressed with zstd."""
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
    """The full name of an image, as containerd stores it: docker omits its own registry."""
    registry, slash, _rest = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in registry or ":" in registry or registry == "localhost" else f"docker.io/{image}"
