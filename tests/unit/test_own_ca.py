"""A user's own CA, as it is read and checked on the controller, and its key on its way to the CA host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("ansible.errors")

from ansible.errors import AnsibleFilterError
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.kubeadm.etcd.plugins.filter.seal import seal
from ansible_collections.kubeadm.etcd.plugins.module_utils._control.own_ca import check_own_ca as own_ca
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import making as _making
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509

ROOT = Path(__file__).resolve().parents[2]
SECRET = "open sesame"


def make(where: Path, *arguments: str) -> tuple[Path, Path]:
    """A CA made by openssl: files of certificate and key."""
    where.mkdir(parents=True, exist_ok=True)
    cert, key = where / "ca.crt", where / "ca.key"
    files = ["-keyout", str(key), "-out", str(cert)]
    options = ["req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=mine", "-days", "900", *files]
    subprocess.run(["openssl", *options, *(arguments or ["-nodes"])], check=True, capture_output=True)
    return cert, key


def test_what_is_returned_of_a_ca(tmp_path: Path) -> None:
    cert, key = make(tmp_path)
    found = own_ca(cert.read_text(), key.read_text(), cert_file=str(cert), key_file=str(key))
    certificate = _x509.load_certificate(cert.read_bytes())
    assert found["problems"] == [] and found["key"] and found["id"] == _x509.authority_id(certificate)
    assert found["public_key"] == _x509.public_fingerprint(certificate.public_key())
    assert key.read_text().splitlines()[1] not in repr(found)
    assert not own_ca(cert.read_text())["key"]
    assert own_ca("")["problems"] == [] and own_ca("")["fingerprint"] is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "ca.key cannot be read on the controller: No such file or directory"),
        ("directory", "ca.key cannot be read on the controller: Is a directory"),
        ("binary", "ca.key cannot be read on the controller: it is not text"),
        ("vault", "it is encrypted by ansible-vault, and its password is missing"),
        ("empty", "it is empty"),
        ("certificate", "etcd_ca_cert is not set"),
    ],
)
def test_what_the_lookup_could_not_read(tmp_path: Path, how: str, words: str) -> None:
    """With errors='ignore' it returns nothing; the reason is found here."""
    cert, key = make(tmp_path)
    key.unlink()
    if how == "directory":
        key.mkdir()
    elif how in ("binary", "vault", "empty"):
        key.write_bytes({"binary": b"\xff\xfe", "vault": b"$ANSIBLE_VAULT;1.1;AES256\n61\n", "empty": b""}[how])
    given = ("", "") if how == "certificate" else (cert.read_text(), str(cert))
    problems = own_ca(given[0], None, cert_file=given[1], key_file=str(key))["problems"]
    assert len(problems) == 1 and words in problems[0].replace("and etcd_ca_cert is not.", "etcd_ca_cert is not set"), (
        problems
    )


def test_a_key_is_sealed_without_its_passphrase(tmp_path: Path) -> None:
    _cert, key = make(tmp_path, "-passout", f"pass:{SECRET}")
    recipient = _making.make_key("ECDSA-P256")
    public = _making.public_pem(recipient.public_key())
    data = _making.unseal(seal(key.read_text(), public, SECRET), recipient)
    assert _x509.same_key(_x509.load_key(data).public_key(), _x509.load_certificate(_cert.read_bytes()).public_key())
    for arguments in ((key.read_text(), public, "wrong"), ("garbage", public), (key.read_text(), "garbage", SECRET)):
        with pytest.raises(AnsibleFilterError) as error:
            seal(*arguments)
        assert SECRET not in str(error.value)


# The result of a member that a hand-over does not observe.
HOST = {
    "cluster": {
        "name": "etcd",
        "members": [{"host": "localhost", "name": "localhost", "address": "10.0.0.6"}],
        "ca_host": "",
        "known": True,
        "problems": [],
        "warnings": [],
        "clients": [],
    }
}
TASKS = [
    {"ansible.builtin.set_fact": {"__etcd_host": HOST}},
    {"kubeadm.etcd.etcd_plan": {"operation": "hand_over"}, "register": "plan"},
    {"ansible.builtin.copy": {"content": "{{ plan.own_ca | to_json }}", "dest": "{{ key }}.json", "mode": "0600"}},
]


@pytest.mark.parametrize("core", [".venv", ".venv-oldest"], ids=["newest", "oldest"])
def test_files_are_read_as_the_role_reads_them(tmp_path: Path, core: str) -> None:
    """Relative paths start at the current directory, not at the playbook. Vault files are decrypted."""
    program = ROOT / core / "bin" / "ansible-playbook"
    if not program.exists() or sys.version_info < (3, 10):
        pytest.skip("that ansible-core is not here")
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    elsewhere.mkdir()
    vault = VaultLib([("default", VaultSecret(b"vault password"))])
    (tmp_path / "password").write_text("vault password\n")
    pairs = {}
    for key in ("vaulted", "inline", "sealed", "missing"):
        inline = key == "inline"
        cert, path = make(project / key, *(["-passout", f"pass:{SECRET}"] if inline else ["-nodes"]))
        if key in ("vaulted", "sealed"):
            path.write_bytes(vault.encrypt(path.read_bytes()))
        elif key == "missing":
            path.unlink()
        passphrase = f"!vault |\n{textwrap.indent(vault.encrypt(SECRET).decode(), '  ')}" if inline else "''"
        (elsewhere / f"{key}.yml").write_text(
            f"etcd_ca_cert: {key}/ca.crt\netcd_ca_key: {key}/ca.key\netcd_image_archive: ''\netcd_signing_dir: x\n"
            f"etcd_ca_key_passphrase: {passphrase}\n"
        )
        pairs[key] = cert, path

    def read(keys: list[str], *password: str) -> str:
        play = {"hosts": "localhost", "gather_facts": False, "tasks": TASKS}
        plays = [{**play, "vars": {"key": str(tmp_path / key)}, "vars_files": [f"{key}.yml"]} for key in keys]
        (elsewhere / "play.yml").write_text(json.dumps(plays))
        done = subprocess.run(
            [str(program), "-vvvv", str(elsewhere / "play.yml"), *password],
            cwd=project,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith("ANSIBLE")},
                "PWD": str(project),
                "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".collections"),
                "ANSIBLE_LOCALHOST_WARNING": "false",
            },
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    output = read(["vaulted", "inline", "missing"], "--vault-password-file", str(tmp_path / "password"))
    output += read(["sealed"])
    found = {key: json.loads((tmp_path / f"{key}.json").read_text()) for key in pairs}
    for key in ("vaulted", "inline"):
        assert found[key]["problems"] == [] and found[key]["key"]
        assert found[key]["fingerprint"] == _x509.fingerprint(pairs[key][0].read_text())
    gone = f"etcd_ca_key: {pairs['missing'][1]} cannot be read on the controller: No such file"
    assert gone in found["missing"]["problems"][0]
    assert "it is encrypted by ansible-vault, and its password is missing" in found["sealed"]["problems"][0]
    assert "PRIVATE KEY" not in output and SECRET not in output
