"""Certificates and keys in the forms that users have, made by openssl."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography")

from ansible_collections.kubeadm.etcd.plugins.module_utils._host import facts as _host
from ansible_collections.kubeadm.etcd.plugins.module_utils._pki import x509 as _x509


def shell(where: Path, script: str) -> None:
    subprocess.run(["bash", "-ec", script], cwd=where, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("script", "passphrase", "algorithm"),
    [
        ("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out k", "", "RSA-2048"),
        ("openssl genrsa -out k 3072", "", "RSA-3072"),
        (
            "openssl genrsa -out k0 2048; openssl rsa -in k0 -traditional -out k || openssl rsa -in k0 -out k",
            "",
            "RSA-2048",
        ),
        ("openssl ecparam -name prime256v1 -genkey -out k; grep -q 'EC PARAMETERS' k", "", "ECDSA-P256"),
        ("openssl ecparam -name secp384r1 -genkey -noout -out k", "", "ECDSA-P384"),
        ("openssl ecparam -name secp521r1 -genkey -noout -out k", "", "ECDSA-P521"),
        ("openssl genpkey -algorithm ed25519 -out k", "", "Ed25519PublicKey"),
        ("openssl genpkey -algorithm RSA -aes256 -pass pass:x -out k; grep -q 'ENCRYPTED PRIVATE' k", "x", "RSA-2048"),
        (
            "openssl genrsa -out k0 2048; openssl rsa -in k0 -aes128 -passout pass:x -traditional -out k; grep -q Proc-Type k",
            "x",
            "RSA-2048",
        ),
        # A passphrase for a key that has none, certificates before the key, line ends of another system.
        ("openssl genrsa -out k 2048", "needless", "RSA-2048"),
        ("openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=x -keyout k0 -out c; cat c k0 > k", "", "RSA-2048"),
        ("openssl genrsa -out k0 2048; sed 's/$/\\r/' k0 > k", "", "RSA-2048"),
    ],
)
def test_keys_in_the_forms_that_people_have(tmp_path: Path, script: str, passphrase: str, algorithm: str) -> None:
    shell(tmp_path, script)
    key = _x509.load_key((tmp_path / "k").read_bytes(), passphrase)
    assert key is not None and _x509.algorithm_of(key.public_key()).replace("_", "") == algorithm
    assert _x509.is_encrypted((tmp_path / "k").read_bytes()) == (passphrase == "x")


@pytest.mark.parametrize("passphrase", ["", "wrong"])
def test_key_that_stays_closed(tmp_path: Path, passphrase: str) -> None:
    shell(tmp_path, "openssl genpkey -algorithm RSA -aes256 -pass pass:x -out k")
    assert _x509.load_key((tmp_path / "k").read_bytes(), passphrase) is None


@pytest.mark.parametrize("part", ["d", "p", "modulus"])
def test_rsa_key_whose_numbers_do_not_fit(tmp_path: Path, part: str) -> None:
    """A flipped bit in well-formed PEM. Go would refuse the key, and etcd not start."""
    shell(tmp_path, "openssl genrsa 2048 2>/dev/null | openssl rsa -outform DER -traditional -out k 2>/dev/null"
                    " || openssl genrsa 2048 | openssl rsa -outform DER -out k")  # fmt: skip
    der = (tmp_path / "k").read_bytes()
    good = base64.encodebytes(der).decode()
    form = "-----BEGIN RSA PRIVATE KEY-----\n{}-----END RSA PRIVATE KEY-----\n"
    numbers = _x509.load_key(form.format(good).encode()).private_numbers()
    number = {"d": numbers.d, "p": numbers.p, "modulus": numbers.public_numbers.n}[part]
    old = number.to_bytes((number.bit_length() + 7) // 8, "big")
    assert der.count(old) == 1
    bad = der.replace(old, old[:-20] + bytes([old[-20] ^ 1]) + old[-19:])
    assert _x509.load_key(form.format(base64.encodebytes(bad).decode()).encode()) is None


@pytest.mark.parametrize(
    "data", [None, b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_no_key(data: bytes | None) -> None:
    assert _x509.load_key(data) is None


@pytest.mark.parametrize(
    ("options", "good"),
    [
        ("", True),
        ("-sha384", True),
        ("-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32", True),
        ("-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20", False),
    ],
)
def test_signatures_by_rsa(tmp_path: Path, options: str, good: bool) -> None:
    """PSS is for CAs of users. Go accepts it only with a salt as long as the hash."""
    shell(
        tmp_path,
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout ca.key -out ca.crt;"
        "openssl req -newkey rsa:2048 -nodes -subj /CN=leaf -keyout k -out r;"
        f"openssl x509 -req -in r -CA ca.crt -CAkey ca.key -set_serial 5 {options} -out leaf.crt",
    )
    leaf, authority = (_x509.load_certificate((tmp_path / name).read_bytes()) for name in ("leaf.crt", "ca.crt"))
    pss = "pss" in options
    if pss and int((_x509.CRYPTOGRAPHY_VERSION or "0").split(".", maxsplit=1)[0]) < 41:
        good = False
    assert _x509.signed_by(leaf, authority) == good
    assert not _x509.signed_by(authority, leaf)


def test_certificates_among_other_things(tmp_path: Path) -> None:
    """A bundle with text between its blocks, as `openssl s_client -showcerts` prints it; one broken block makes all of it unsafe."""
    for name in ("a", "b"):
        shell(
            tmp_path, f"openssl req -x509 -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.crt"
        )
    a, b = ((tmp_path / f"{name}.crt").read_bytes() for name in ("a", "b"))
    found = _x509.load_certificates(b" 0 s:/CN=a\n" + a + b"some text\n" + b)
    assert [_x509.common_name(item.subject) for item in found] == ["a", "b"]
    assert _x509.load_certificates(a + b.replace(b"MII", b"AAA", 1)) == []


CONSTRAINED = [
    ("permitted;DNS:example.com", ["localhost"]),
    ("permitted;DNS:localhost,permitted;DNS:example.com", []),
    ("permitted;IP:10.0.0.0/255.0.0.0", ["127.0.0.1", "::1"]),
    ("excluded;DNS:localhost", ["localhost"]),
    ("excluded;IP:127.0.0.0/255.0.0.0", ["127.0.0.1"]),
    ("permitted;email:example.com", []),
]


@pytest.mark.parametrize(("constraints", "forbidden"), CONSTRAINED)
def test_name_constraints(tmp_path: Path, constraints: str, forbidden: list[str]) -> None:
    shell(
        tmp_path,
        "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout ca.key -out ca.crt"
        f" -addext 'nameConstraints=critical,{constraints}'",
    )
    authority = _x509.load_certificate((tmp_path / "ca.crt").read_bytes())
    assert _x509.forbidden_names(authority, ["localhost", "127.0.0.1", "::1"]) == forbidden


# sys.prefix and sys.base_prefix of the distribution's own Python.
SYSTEM = ("/usr", "/usr")


@pytest.mark.parametrize(
    ("release", "python", "package"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n', "/usr/bin/python3", "python3-cryptography"),
        ("ID=ubuntu\nID_LIKE=debian\n", "/usr/bin/python3.12", "python3-cryptography"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "/usr/libexec/platform-python", "python3-cryptography"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "/usr/bin/python3.12", "python3.12-cryptography"),
        ("ID=arch\n", "/usr/bin/python3", "python-cryptography"),
        ("", "/usr/bin/python3", "python3-cryptography"),
    ],
)
def test_package_of_the_library_by_distribution(release: str, python: str, package: str) -> None:
    """The message and the run name the same one."""
    problem = _host.cryptography_problem(None, release, python, SYSTEM)
    assert problem and f"Install the package {package} (" in problem and problem.startswith(python)
    assert _host.cryptography_package(release, python, SYSTEM) == package


@pytest.mark.parametrize("prefixes", [("/opt/py", "/usr"), ("/usr/local", "/usr/local")])
def test_a_python_without_a_package_of_the_library(prefixes: tuple[str, str]) -> None:
    """In a virtual environment, or with a Python built on the host, a package would not help."""
    problem = _host.cryptography_problem(None, "ID=debian\n", "/opt/py/bin/python", prefixes, installs=True)
    assert problem and "/opt/py/bin/python -m pip install" in problem and "ansible_python_interpreter" in problem
    assert "etcd_install_dependencies" not in problem
    assert _host.cryptography_package("ID=debian\n", "/opt/py/bin/python", prefixes) is None


@pytest.mark.parametrize("version", [None, "2.8"])
def test_a_variable_that_is_set_is_not_advised(version: str | None) -> None:
    problem = _host.cryptography_problem(version, "ID=debian\n", "/usr/bin/python3", SYSTEM, installs=True)
    assert problem and "or set etcd_install_dependencies" not in problem
    assert "the package python3-cryptography (this distribution) did not provide it" in problem


def test_library_that_is_too_old() -> None:
    assert "3.3" in (_host.cryptography_problem("2.8") or "")
    assert _host.cryptography_problem(_x509.CRYPTOGRAPHY_VERSION) is None


WITHOUT_CRYPTOGRAPHY = """
import importlib, sys
sys.modules["cryptography"] = None
for name in sys.argv[1:]:
    importlib.import_module(f"ansible_collections.kubeadm.etcd.plugins.module_utils.{name}")
"""


def test_a_host_without_the_library_can_load_all_files() -> None:
    """It is told what to install."""
    utils = Path(__file__).resolve().parents[2] / "plugins" / "module_utils"
    layers = ("_values", "_host", "_pki", "_etcd", "_member")
    names = [f"{layer}.{path.stem}" for layer in layers for path in (utils / layer).glob("[a-z]*.py")]
    environment = {**os.environ, "PYTHONPATH": str(utils.parents[1] / ".collections")}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_CRYPTOGRAPHY, *names],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
