"""Container images FROM scratch, written as archives that `ctr images import` and `podman load` read.

Written here rather than by podman: it takes no registry and no daemon, and the same content gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def _entry(name: str, mode: int, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size, entry.type = mode, size, kind
    return entry


def write_layer(target: Path, files: Mapping[str, Path]) -> str:
    """Write the one layer of an image, its programs owned by root, and return its digest."""
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    with tarfile.open(target, "w") as layer:
        for folder in folders:
            layer.addfile(_entry(folder, 0o755, kind=tarfile.DIRTYPE))
        for name, source in sorted(files.items()):
            with source.open("rb") as content:
                layer.addfile(_entry(name, 0o755, source.stat().st_size), content)
    digest = hashlib.sha256()
    with target.open("rb") as content:
        for block in iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def image_config(layer_digest: str, entrypoint: Sequence[str]) -> bytes:
    """The configuration of an image with one layer."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created_by": "kubeadm-etcd-lab"}],
    }
    return json.dumps(config, sort_keys=True).encode()


def write_archive(target: Path, files: Mapping[str, Path], tags: Sequence[str], entrypoint: Sequence[str] = ()) -> None:
    """Write an image that holds `files` (path in the image to path here) under all of `tags`."""
    layer_file = target.with_suffix(".layer")
    fresh = target.with_suffix(".new")
    try:
        digest = write_layer(layer_file, files)
        config = image_config(digest, entrypoint)
        config_name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": config_name, "RepoTags": list(tags), "Layers": [f"{digest}/layer.tar"]}]
        with tarfile.open(fresh, "w") as archive:
            with layer_file.open("rb") as content:
                archive.addfile(_entry(f"{digest}/layer.tar", 0o644, layer_file.stat().st_size), content)
            for name, data in ((config_name, config), ("manifest.json", json.dumps(manifest).encode())):
                archive.addfile(_entry(name, 0o644, len(data)), io.BytesIO(data))
        fresh.replace(target)
    finally:
        layer_file.unlink(missing_ok=True)
        fresh.unlink(missing_ok=True)
