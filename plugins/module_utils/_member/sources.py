# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The program of the timers: its sources, and its digest, which shows whether it is the current one.

The services run the very code of the modules, so nothing of Ansible has to be installed on the hosts. The controller says by a digest which program is
wanted. So only the module that installs it is shipped its sources.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

_PACKAGE = "ansible_collections.kubeadm.etcd.plugins.module_utils"
_IMPORT = re.compile(rf"^\s*from {re.escape(_PACKAGE)}\.(\S+) import (\([^)]*\)|[^\n]*)", re.MULTILINE)

# The module that the services run.
MAIN = f"{_PACKAGE}._member.timers"


def source_text(name: str) -> str | None:
    """The source of a module of this collection, below module_utils; None if there is no such module.

    It is where this one is: a directory on the controller, and the archive that Ansible has sent to a host. Nothing is imported for it.
    """
    loader: Any = __spec__.loader
    path = os.path.join(os.path.dirname(os.path.dirname(__file__)), *name.split(".")) + ".py"
    try:
        data = loader.get_data(path)
    except OSError:
        return None
    return data.decode() if data else None


def program_files(main: str = MAIN) -> dict[str, str]:
    """A module and what it imports of this collection, by path in a zip application that runs its function main."""
    sources: dict[str, str] = {}
    waiting = [main[len(_PACKAGE) + 1 :]]
    while waiting:
        name = waiting.pop()
        text = None if name in sources else source_text(name)
        if text is None:
            continue
        sources[name] = text
        for module, names in _IMPORT.findall(text):
            # Either a module, or modules of a package.
            waiting += [
                module,
                *(f"{module}.{item.split()[0]}" for item in names.strip("()").split(",") if item.strip()),
            ]
    files = {}
    for name, text in sources.items():
        *packages, module = f"{_PACKAGE}.{name}".split(".")
        files["/".join([*packages, f"{module}.py"])] = text
        files.update({"/".join([*packages[: depth + 1], "__init__.py"]): "" for depth in range(len(packages))})
    files["__main__.py"] = f"import sys\n\nfrom {main} import main\n\nsys.exit(main(sys.argv[1:]))\n"
    return files


def packed(files: Mapping[str, str]) -> bytes:
    """The zip application."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files):
            archive.writestr(zipfile.ZipInfo(path), files[path])
    return out.getvalue()


def digest(files: Mapping[str, str]) -> str:
    """What tells one program from another, whatever has packed it: SHA-256 of all paths and texts."""
    return hashlib.sha256(
        "\0".join(part for path in sorted(files) for part in (path, files[path])).encode()
    ).hexdigest()


def digest_of_zip(data: bytes) -> str:
    """The digest of a program that is packed; '' if it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return digest({name: archive.read(name).decode() for name in archive.namelist()})
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError):
        return ""
