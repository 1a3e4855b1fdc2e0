# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies a snapshot to the controller, piece by piece. Documented in plugins/modules/etcd_fetch_snapshot.py."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import re
from typing import Any, BinaryIO

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.kubeadm.etcd.plugins.module_utils._etcd.snapshot import BEGIN, DESCRIPTION, is_description
from ansible_collections.kubeadm.etcd.plugins.module_utils._host.files import sha256_of
from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import reason_of
from ansible_collections.kubeadm.etcd.plugins.plugin_utils.play import controller_path, failure

# The end of a copy's name until it is complete.
PART = ".part"
_PARTS = re.compile(rf"{BEGIN}({re.escape(DESCRIPTION)})?(\.cms(-\d+)?)?{re.escape(PART)}\Z")

# A snapshot, and whether it is encrypted.
_COPIES = re.compile(rf"(?P<file>{BEGIN})(?P<encrypted>\.cms)?(-\d+)?\Z")


def remove_description(path: str) -> None:
    """Remove the description beside a copy that is about to be replaced: it may be of another snapshot."""
    match = _COPIES.match(os.path.basename(path))
    if match:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(os.path.dirname(path), match["file"] + DESCRIPTION + (match["encrypted"] or "")))


def remove_parts(directory: str) -> None:
    """Remove what killed runs have left of copies. A run that is copying holds a lock on its part."""
    for name in filter(_PARTS.match, os.listdir(directory)):
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError), open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)


class ActionModule(ActionBase):
    """See the documentation of the module."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The paths of the copies."""
        super().run(tmp, task_vars)
        self.variables = task_vars or {}
        _validation, args = self.validate_argument_spec(  # type: ignore[no-untyped-call]
            argument_spec={
                "path": {"type": "path", "required": True},
                "dest": {"type": "path", "required": True},
                "recipient": {"type": "str", "default": ""},
            }
        )
        self.args = args
        directory = controller_path(args["dest"])
        if self._task.check_mode:
            return {"changed": True, "fetched": []}
        files: list[dict[str, Any]] = []
        fetched, changed = [], False
        try:
            os.makedirs(directory, mode=0o700, exist_ok=True)
            remove_parts(directory)
            files = self._ask(step="prepare")["files"]
            # The description last: a copy without one can be used, and one of another snapshot would mislead.
            for file in sorted(files, key=lambda item: is_description(item["path"])):
                path = os.path.join(directory, os.path.basename(file["path"]))
                changed = self._copy(file, path) or changed
                fetched.append(path)
        except OSError as exc:
            return failure(
                f"{exc.filename or directory} on the controller: {reason_of(exc)}. The snapshot is on the host: {args['path']}. Correct this, or"
                " etcd_backup_fetch_dir, and run again."
            )
        finally:
            if files:
                self._ask(step="discard", files=[file["path"] for file in files])
        return {"changed": changed, "fetched": fetched}

    def _ask(self, **options: Any) -> dict[str, Any]:
        """One call of the module on the host."""
        result = self._execute_module(
            module_name="kubeadm.etcd.etcd_fetch_snapshot",
            module_args={**self.args, **options},
            task_vars=self.variables,
        )
        if result.get("failed"):
            raise AnsibleActionFail(str(result.get("msg")))
        return dict(result)

    def _copy(self, file: dict[str, Any], path: str) -> bool:
        """Copy one file, unless it is there. Returns whether it was not."""
        if os.path.isfile(path) and sha256_of(path) == file["sha256"]:
            return False
        temporary = f"{path}{PART}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as out:
                # Not on every filesystem of a network.
                with contextlib.suppress(OSError):
                    fcntl.flock(out, fcntl.LOCK_EX)
                self._read(file, out)
                if sha256_of(temporary) != file["sha256"]:
                    raise AnsibleActionFail(f"{file['path']} changed while it was copied. Run again.")
                if not is_description(path):
                    remove_description(path)
                os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return True

    def _read(self, file: dict[str, Any], out: BinaryIO) -> None:
        """Copy the content of one file."""
        while out.tell() < file["size"]:
            piece = base64.b64decode(self._ask(step="read", path=file["path"], offset=out.tell())["piece"])
            if not piece:
                break
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
