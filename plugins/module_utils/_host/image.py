# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The programs that an etcd image carries (etcd, etcdctl, etcdutl), run on the host itself without a network.

A container of ours would be removed by the kubelet, which does not know its pod. The programs are static (etcd's release binaries are built
without cgo), so they run from the root filesystem of the member's container, or from the image, mounted read-only.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator

from ansible_collections.kubeadm.etcd.plugins.module_utils._host.process import Done, run
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.paths import RUN_DIR

# Where an etcd image has its programs.
PROGRAMS = ("usr/local/bin", "usr/bin", "bin")

# Beside a live member: above this, Go frees memory at once (https://pkg.go.dev/runtime, "Environment Variables").
MEMORY = "64MiB"

# Seconds for mounting an image that the runtime has.
MOUNTS = 30.0


def program_in(root: str, name: str) -> str:
    """The path of a program below a root directory; '' if it is not there."""
    paths = [os.path.join(root, directory, name) for directory in PROGRAMS]
    return next((path for path in paths if os.access(path, os.X_OK)), "")


@contextlib.contextmanager
def image_root(image: str, pid: int = 0) -> Iterator[str]:
    """The root directory of an etcd image. pid: a process of a container of that image, 0 if there is none.

    EtcdError if nothing runs and containerd does not have the image.
    """
    running = f"/proc/{pid}/root"
    if pid and program_in(running, "etcdutl"):
        yield running
        return
    os.makedirs(RUN_DIR, mode=0o700, exist_ok=True)
    directory = tempfile.mkdtemp(prefix="image-", dir=RUN_DIR)
    try:
        done = run(["ctr", "-n", "k8s.io", "images", "mount", image, directory], MOUNTS)
        if done.code != 0:
            raise EtcdError(
                f"image {image} cannot be mounted for its programs: ctr {(done.stderr or done.stdout).strip() or done.code}. containerd must have the"
                " image: pull it, or set etcd_image_archive."
            )
        yield directory
    finally:
        run(["ctr", "-n", "k8s.io", "images", "unmount", "--rm", directory], MOUNTS)
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def alone(root: str, name: str) -> list[str]:
    """How a program of an image is run without a network and without the environment of the host. EtcdError if the image does not have it."""
    return ["unshare", "--net", *bare(root, name)]


def bare(root: str, name: str) -> list[str]:
    """How a program of an image is run without the environment of the host. EtcdError if the image does not have it.

    A proxy would be heeded, and etcd does not start if a variable sets a flag too (etcd pkg/flags/flag.go).
    """
    return ["env", "-i", f"GOMEMLIMIT={MEMORY}", program_of(root, name)]


def run_alone(root: str, name: str, arguments: list[str], timeout: float) -> Done:
    """Run a program of an image to its end, as alone() says."""
    return run([*alone(root, name), *arguments], timeout)


def program_of(root: str, name: str) -> str:
    """The path of a program in an image. EtcdError if the image does not have it."""
    program = program_in(root, name)
    if not program:
        raise EtcdError(f"the etcd image has no program {name}. Use an image that carries etcd's own tools.")
    return program
