"""Answers of a container runtime over its socket, byte by byte. tests/integration/test_diagnosis.py has a real one."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.kubeadm.etcd.plugins.module_utils._host import cri

DATA, HEADERS, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 4, 6, 7, 9


def frame(kind: int, flags: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + (1).to_bytes(4, "big") + payload


def plain(name: str, value: str, first: int = 0) -> bytes:
    """A field without Huffman coding; first: 0x40 to have it indexed."""
    return bytes((first,)) + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))


def content(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


HELLO = frame(SETTINGS, 0) + frame(SETTINGS, 1)
BEGIN = frame(HEADERS, 4, b"\x88" + plain("content-type", "application/grpc", 0x40))
# Index 62: the newest entry of the dynamic table.
END = frame(HEADERS, 5, plain("grpc-status", "0"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[bytes], str]]:
    """A server that sends one answer to any request and closes."""
    threads = []

    def start(said: bytes) -> str:
        path = str(tmp_path / f"{len(threads)}.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()

        def answer() -> None:
            with listener:
                connection, _address = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(said)
                    connection.shutdown(socket.SHUT_WR)
                    # Until the client has gone, which may have left something unread.
                    with contextlib.suppress(ConnectionError):
                        while connection.recv(4096):
                            pass

        threads.append(threading.Thread(target=answer))
        threads[-1].start()
        return f"unix://{path}"

    yield start
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (HELLO + BEGIN + frame(DATA, 0, content(b"version")) + END, None),
        (HELLO + frame(HEADERS, 5, plain("grpc-status", "12")), "remove cri from disabled_plugins"),
        (HELLO + BEGIN + frame(HEADERS, 5, plain("grpc-status", "14")), "remove cri from disabled_plugins"),
        (HELLO + frame(HEADERS, 5, b"\xff"), "remove cri from disabled_plugins"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is not a gRPC server"),
        (HELLO, "is not a gRPC server"),
        (HELLO * 30, "is not a gRPC server"),
        (HELLO + frame(GOAWAY, 0, bytes(8)), "is not a gRPC server"),
        (b"", "is not a gRPC server"),
    ],
)
def test_what_a_runtime_answers(said: bytes, words: str | None, serve: Callable[[bytes], str]) -> None:
    problem = cri.runtime_answers(serve(said))
    assert (problem is None) if words is None else words in str(problem)


def test_no_runtime(tmp_path: Path) -> None:
    assert cri.runtime_answers("unix:///nowhere/c.sock") == "does not exist"
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(path))
        assert "Connection refused" in str(cri.runtime_answers(f"unix://{path}"))
        silent.listen()
        assert cri.runtime_answers(f"unix://{path}", 0.1) == "accepts connections but did not answer within 0 s"


@pytest.mark.parametrize(
    "said",
    [
        HELLO + BEGIN + frame(DATA, 0, content(b"\x0a\x02ok")) + END,
        # Cut anywhere, padded, with a ping in between, and a status that refers to a field before it.
        HELLO + frame(PING, 0, bytes(8)) + BEGIN + frame(DATA, 0, b"\0\0\0") + frame(DATA, 0, b"\0\4\x0a\x02ok") + END,
        HELLO + BEGIN + frame(DATA, 8, b"\2" + content(b"\x0a\x02ok") + b"\0\0") + END,
        HELLO + BEGIN + frame(DATA, 0, content(b"\x0a\x02ok")) + frame(HEADERS, 1, END[9:12]) + frame(CONTINUATION, 4, END[12:]),
        HELLO
        + frame(HEADERS, 4, b"\x88" + plain("grpc-status", "0", 0x40))
        + frame(DATA, 0, content(b"\x0a\x02ok"))
        + frame(HEADERS, 5, b"\xbe"),
    ],
)  # fmt: skip
def test_an_answer(said: bytes, serve: Callable[[bytes], str]) -> None:
    assert cri.message(cri.call(serve(said), "RuntimeService", "Version", b"")) == {1: [b"ok"]}


def test_a_status_with_words(serve: Callable[[bytes], str]) -> None:
    trailers = plain("grpc-status", "5") + plain("grpc-message", "no image %22%E2%82%AC%22")
    with pytest.raises(cri.CriError, match='no image "€"') as failed:
        cri.pull_image(serve(HELLO + frame(HEADERS, 5, trailers)), "x", 1.0, {"username": "u", "password": "p"})
    assert failed.value.code == cri.NOT_FOUND


@pytest.mark.parametrize(
    ("code", "text"),
    [
        # RFC 7541, C.4.1 and C.6.1.
        ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
        ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
    ],
)
def test_huffman(code: str, text: str) -> None:
    assert cri.huffman_decoded(bytes.fromhex(code)) == text


def test_the_code_has_every_printable_character_once() -> None:
    characters = "".join(cri._CHARACTERS.values())
    assert sorted(characters) == ["\0", *map(chr, range(0x20, 0x7F))]
    assert all("".join(sorted(group)) == group for group in cri._CHARACTERS.values())


def test_fields_that_are_broken_end_there() -> None:
    assert cri.message(b"\x08\x96\x01\x12\x02hi\x1d\1\2\3\4") == {1: [150], 2: [b"hi"], 3: [b"\1\2\3\4"]}
    assert cri.message(b"\x08\x96") == cri.message(b"\x0f") == cri.message(7) == {}


def test_an_image_that_is_there_or_not(serve: Callable[[bytes], str]) -> None:
    image = cri._bytes(1, cri._bytes(1, b"sha256:1"))
    assert cri.has_image(serve(HELLO + BEGIN + frame(DATA, 0, content(image)) + END), "registry.k8s.io/etcd:1")
    assert not cri.has_image(serve(HELLO + BEGIN + frame(DATA, 0, content(b"")) + END), "registry.k8s.io/etcd:1")


def test_the_names_of_all_images(serve: Callable[[bytes], str]) -> None:
    one = (
        cri._bytes(1, b"sha256:1")
        + cri._bytes(2, b"etcd:1")
        + cri._bytes(2, b"etcd:2")
        + cri._bytes(3, b"etcd@sha256:2")
    )
    images = cri._bytes(1, one) + cri._bytes(1, cri._bytes(1, b"sha256:3"))
    assert cri.images(serve(HELLO + BEGIN + frame(DATA, 0, content(images)) + END)) == [
        "etcd:1",
        "etcd:2",
        "etcd@sha256:2",
    ]


@pytest.mark.parametrize(
    ("config", "image"),
    [
        ('{"sandboxImage": "registry.k8s.io/pause:3.9", "x": 1}', "registry.k8s.io/pause:3.9"),
        ("{}", None),
        ("[]", None),
        ("{", None),
    ],
)
def test_the_image_of_sandboxes(config: str, image: str | None, serve: Callable[[bytes], str]) -> None:
    info = cri._bytes(1, b"config") + cri._bytes(2, config.encode())
    status = cri._bytes(1, b"") + cri._bytes(2, cri._bytes(1, b"golang") + cri._bytes(2, b"x")) + cri._bytes(2, info)
    assert cri.sandbox_image(serve(HELLO + BEGIN + frame(DATA, 0, content(status)) + END)) == image
    assert cri.sandbox_image(serve(HELLO + BEGIN + frame(DATA, 0, content(b"")) + END)) is None
