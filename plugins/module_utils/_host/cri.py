# Copyright: the kubeadm.etcd maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A client for the container runtime, with the kubelet's protocol: CRI v1 over gRPC on a unix socket (k8s.io/cri-api, runtime/v1).

Not every host has crictl, and ctr works with containerd only. Each call is one HTTP/2 stream on a new connection.
"""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Dict, List, Union

from ansible_collections.kubeadm.etcd.plugins.module_utils._values.errors import EtcdError

# gRPC status codes (google.rpc.Code). NO_ANSWER: the runtime sent no status.
UNKNOWN, DEADLINE_EXCEEDED, NOT_FOUND, UNIMPLEMENTED, NO_ANSWER = 2, 4, 5, 12, -1

# States of a container (ContainerState).
CREATED, RUNNING, EXITED = 0, 1, 2

# A protobuf message: the values of each field, by number.
Fields = Dict[int, List[Union[int, bytes]]]

# Timeout for one call. Pulling an image has a timeout of its own.
TIMEOUT = 5.0

# Types and flags of HTTP/2 frames (RFC 9113, section 6).
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_ACK, _END_STREAM, _END_HEADERS = 1, 1, 4
_PADDED, _PRIORITY = 8, 32

# The maximum size of an answer in bytes. Lists of a host with one pod are far smaller.
_MOST = 1 << 22


class CriError(EtcdError):
    """A failed call. code: the gRPC status, for programs; the text is the runtime's own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Container:
    """A container of a pod, or the pod's sandbox. Times are Unix seconds, 0 if unknown.

    attempt: how often the kubelet has recreated it. state: CREATED, RUNNING or EXITED. reason, message: why it ended.
    """

    id: str
    name: str
    attempt: int
    state: int
    created: float
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    log_path: str = ""


# --- Calls -----------------------------------------------------------------------------------------------------------


def runtime_answers(endpoint: str, timeout: float = 3.0, method: str = "Version") -> str | None:
    """Why no container runtime answers on a unix socket; None if one does.

    method: a method of RuntimeService that takes an empty message.
    """
    try:
        call(endpoint, "RuntimeService", method, b"", timeout)
    except CriError as exc:
        if exc.code in (NO_ANSWER, DEADLINE_EXCEEDED):
            return str(exc)
        # The runtime answered with a status only. Statuses other than UNIMPLEMENTED come from a runtime that is starting.
        return (
            "answers, but does not offer CRI v1, which the kubelet needs. With containerd (1.6 or later): remove cri from disabled_plugins in"
            " /etc/containerd/config.toml and restart containerd"
        )
    return None


def _labels(field: int, pod: str) -> bytes:
    """The labels of a static pod (pkg/kubelet/types/labels.go) as entries of a map, which is a field of a filter."""
    labels = (("io.kubernetes.pod.name", pod), ("io.kubernetes.pod.namespace", "kube-system"))
    return b"".join(_bytes(field, _bytes(1, key.encode()) + _bytes(2, value.encode())) for key, value in labels)


def containers(endpoint: str, pod: str) -> list[Container]:
    """The containers of a pod with their exit states, the newest first. CriError if the call fails."""
    answer = message(call(endpoint, "RuntimeService", "ListContainers", _bytes(1, _labels(4, pod))))
    found = []
    for item in answer.get(1, []):
        try:
            found.append(container_status(endpoint, _text(message(item), 1)))
        except CriError as exc:
            # The kubelet may have removed an ended container meanwhile.
            if exc.code != NOT_FOUND:
                raise
    return sorted(found, key=lambda container: -container.created)


def container_status(endpoint: str, container_id: str) -> Container:
    """The present status of one container."""
    answer = message(call(endpoint, "RuntimeService", "ContainerStatus", _bytes(1, container_id.encode())))
    status = _inner(answer, 1)
    metadata = _inner(status, 2)
    created, started, finished = (_number(status, field) / 1e9 for field in (4, 5, 6))
    return Container(
        id=_text(status, 1),
        name=_text(metadata, 1),
        attempt=_number(metadata, 2),
        state=_number(status, 3),
        created=created,
        started=started,
        finished=finished,
        exit_code=_number(status, 7),
        reason=_text(status, 10),
        message=_text(status, 11),
        image=_text(_inner(status, 8), 1),
        log_path=_text(status, 15),
    )


def sandboxes(endpoint: str, pod: str) -> list[Container]:
    """The sandboxes of a pod, the newest first. A sandbox that is not ready has the state EXITED."""
    answer = message(call(endpoint, "RuntimeService", "ListPodSandbox", _bytes(1, _labels(3, pod))))
    found = [
        Container(
            id=_text(item, 1),
            name=_text(_inner(item, 2), 1),
            attempt=_number(_inner(item, 2), 4),
            state=EXITED if _number(item, 3) else RUNNING,
            created=_number(item, 4) / 1e9,
        )
        for item in map(message, answer.get(1, []))
    ]
    return sorted(found, key=lambda sandbox: -sandbox.created)


def has_image(endpoint: str, image: str) -> bool:
    """Whether the runtime has an image. CriError if the call fails."""
    return 1 in message(call(endpoint, "ImageService", "ImageStatus", _bytes(1, _bytes(1, image.encode()))))


def images(endpoint: str) -> list[str]:
    """Names of all images that the runtime has, with tags and with digests. CriError if the call fails."""
    answer = message(call(endpoint, "ImageService", "ListImages", b""))
    found = [message(item) for item in answer.get(1, [])]
    return [
        value.decode()
        for image in found
        for number in (2, 3)
        for value in image.get(number, [])
        if isinstance(value, bytes)
    ]


def runtime_config(endpoint: str) -> dict[str, Any]:
    """The configuration that containerd runs with, its CRI plugin's part of it; empty if the runtime does not tell. CriError if the call fails.

    It comes with a verbose Status (containerd 1 and 2), and may hold passwords of registries.
    """
    answer = message(call(endpoint, "RuntimeService", "Status", b"\x08\x01"))
    texts = {_text(item, 1): _text(item, 2) for item in map(message, answer.get(2, []))}
    try:
        config = json.loads(texts.get("config", "{}"))
    except ValueError:
        return {}
    return config if isinstance(config, dict) else {}


def sandbox_image(endpoint: str) -> str | None:
    """The image of sandboxes (pause), which the runtime pulls itself; None if it does not report it. containerd 1 does."""
    name = runtime_config(endpoint).get("sandboxImage")
    return name if isinstance(name, str) and name else None


def pull_image(endpoint: str, image: str, timeout: float, auth: Mapping[str, str] | None) -> None:
    """Make the runtime pull an image. CriError with the error of the runtime or the registry.

    auth: username and password for the registry. A timeout closes the connection, which cancels the pull.
    """
    request = _bytes(1, _bytes(1, image.encode()))
    if auth:
        fields = ((1, auth.get("username", "")), (2, auth.get("password", "")))
        request += _bytes(2, b"".join(_bytes(number, text.encode()) for number, text in fields))
    call(endpoint, "ImageService", "PullImage", request, timeout)


# --- gRPC ------------------------------------------------------------------------------------------------------------


def call(endpoint: str, service: str, method: str, request: bytes, timeout: float = TIMEOUT) -> bytes:
    """One unary call; returns the message of the answer. CriError with the status, or with NO_ANSWER."""
    path = endpoint[len("unix://") :] if endpoint.startswith("unix://") else endpoint
    if not os.path.exists(path):
        raise CriError(NO_ANSWER, "does not exist")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            connection.sendall(_request(f"/runtime.v1.{service}/{method}", request))
            return _answer(connection, time.monotonic() + timeout)
        except socket.timeout:
            raise CriError(
                DEADLINE_EXCEEDED, f"accepts connections but did not answer within {timeout:.0f} s"
            ) from None
        except OSError as exc:
            raise CriError(NO_ANSWER, f"does not answer: {exc.strerror or exc}") from exc


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _field(name: str, value: str) -> bytes:
    """A header field without indexing and without Huffman coding (RFC 7541, section 6.2.2)."""
    return b"\0" + b"".join(bytes((len(text),)) + text.encode("ascii") for text in (name, value))


def _request(path: str, content: bytes) -> bytes:
    """The bytes of a call. gRPC puts five bytes before the message."""
    headers = (
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    )
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            # SETTINGS_INITIAL_WINDOW_SIZE, and the same for the connection, so that the server never waits for a window update.
            _frame(_SETTINGS, 0, 0, b"\0\4" + _MOST.to_bytes(4, "big")),
            _frame(_WINDOW_UPDATE, 0, 0, _MOST.to_bytes(4, "big")),
            _frame(_HEADERS, _END_HEADERS, 1, b"".join(_field(name, value) for name, value in headers)),
            _frame(_DATA, _END_STREAM, 1, b"\0" + len(content).to_bytes(4, "big") + content),
        )
    )


def _read(connection: socket.socket, count: int, deadline: float) -> bytes:
    """Read `count` bytes; fewer if the connection ends. socket.timeout after the deadline."""
    parts = []
    while count:
        left = deadline - time.monotonic()
        if left <= 0:
            raise socket.timeout
        connection.settimeout(left)
        part = connection.recv(min(count, 65536))
        if not part:
            break
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _answer(connection: socket.socket, deadline: float) -> bytes:
    """Read the server's frames up to the end of the stream, and return the message."""
    content, block, fields, is_last, is_first = b"", b"", Headers(), False, True
    while len(content) + len(block) <= _MOST:
        header = _read(connection, 9, deadline)
        if len(header) < 9 or (is_first and header[3] != _SETTINGS):
            break
        is_first = False
        length, kind, flags = int.from_bytes(header[:3], "big"), header[3], header[4]
        payload = _read(connection, length, deadline)
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            connection.sendall(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind in (_GOAWAY, _RESET):
            break
        elif kind == _DATA:
            content += _unpadded(payload, flags)
        elif kind in (_HEADERS, _CONTINUATION):
            block += _unpadded(payload, flags) if kind == _HEADERS else payload
            is_last = is_last or (kind == _HEADERS and bool(flags & _END_STREAM))
            if flags & _END_HEADERS:
                fields.read(block)
                block = b""
                if is_last:
                    return _message_of(content, fields.values)
    raise CriError(NO_ANSWER, "is not a gRPC server")


def _unpadded(payload: bytes, flags: int) -> bytes:
    """The content of a frame without its padding and, for HEADERS, without its priority (DATA frames never have that flag)."""
    start, end = 0, len(payload)
    if flags & _PADDED and payload:
        start, end = 1, end - payload[0]
    return payload[start + (5 if flags & _PRIORITY else 0) : end]


def _message_of(content: bytes, trailers: Mapping[str, str]) -> bytes:
    """The message of a complete answer. CriError if the status is not 0."""
    status = trailers.get("grpc-status", "")
    code = int(status) if status.isdigit() else UNKNOWN
    if code:
        raise CriError(code, urllib.parse.unquote(trailers.get("grpc-message", "")) or f"gRPC status {code}")
    return content[5 : 5 + int.from_bytes(content[1:5], "big")]


# --- HPACK (RFC 7541) ------------------------------------------------------------------------------------------------

_STATIC_TABLE = 61

# Printable characters by the length of their Huffman code in bits (appendix B). The code is canonical: codes of one length are consecutive,
# in the order of the characters.
_CHARACTERS = {
    5: "012aceiost",
    6: " %-./3456789=A_bdfghlmnpru",
    7: ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: "&*,;XZ",
    10: '!"()?',
    11: "'+|",
    12: "#>",
    13: "\0$@[]~",
    14: "^}",
    15: "<`{",
    19: "\\",
}


def _huffman_codes() -> dict[tuple[int, int], str]:
    """Characters by length and code."""
    codes, code, length = {}, 0, 0
    for longer, characters in _CHARACTERS.items():
        code, length = code << (longer - length), longer
        for character in characters:
            codes[length, code] = character
            code += 1
    return codes


_CODES = _huffman_codes()


def huffman_decoded(data: bytes) -> str:
    """Decode a text of printable characters. Decoding stops at any other character."""
    text, code, length = [], 0, 0
    for byte in data:
        for shift in range(7, -1, -1):
            code, length = code << 1 | byte >> shift & 1, length + 1
            character = _CODES.get((length, code))
            if character is not None:
                text.append(character)
                code, length = 0, 0
    return "".join(text)


class Headers:
    """The header fields that a server sends on one connection. Names from the static table are not needed, and are ''."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self._table: list[tuple[str, str]] = []

    def read(self, block: bytes) -> None:
        """Add the fields of one block, up to the first invalid one."""
        position = 0
        try:
            while position < len(block):
                position = self._read_field(block, position)
        except IndexError:
            return

    def _read_field(self, block: bytes, position: int) -> int:
        first = block[position]
        if first & 0x80:
            index, position = _integer(block, position, 7)
            name, value = self._entry(index)
        elif first & 0xE0 == 0x20:
            # A change of the table size. Entries need not be evicted for the few fields here.
            return _integer(block, position, 5)[1]
        else:
            is_indexed = bool(first & 0x40)
            index, position = _integer(block, position, 6 if is_indexed else 4)
            if index:
                name = self._entry(index)[0]
            else:
                name, position = _string(block, position)
            value, position = _string(block, position)
            if is_indexed:
                self._table.insert(0, (name, value))
        self.values[name] = value
        return position

    def _entry(self, index: int) -> tuple[str, str]:
        return ("", "") if index <= _STATIC_TABLE else self._table[index - _STATIC_TABLE - 1]


def _integer(block: bytes, position: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of `bits` bits (section 5.1), and the position after it."""
    value, position = block[position] & ((1 << bits) - 1), position + 1
    if value < (1 << bits) - 1:
        return value, position
    shift = 0
    while True:
        byte, position = block[position], position + 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position


def _string(block: bytes, position: int) -> tuple[str, int]:
    """A string (section 5.2), and the position after it."""
    is_huffman = bool(block[position] & 0x80)
    length, position = _integer(block, position, 7)
    data = block[position : position + length]
    if len(data) < length:
        raise IndexError
    return (huffman_decoded(data) if is_huffman else data.decode("latin-1")), position + length


# --- Protocol Buffers (wire format) ----------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))


def _bytes(number: int, data: bytes) -> bytes:
    """A field with a text or a message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, position = data[position], position + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, position


def message(data: int | bytes) -> Fields:
    """The fields of a message, up to the first invalid one."""
    fields: Fields = {}
    if isinstance(data, int):
        return fields
    position = 0
    try:
        while position < len(data):
            key, position = _read_varint(data, position)
            kind = key & 7
            value: int | bytes
            if kind == 0:
                value, position = _read_varint(data, position)
            else:
                length, position = _read_varint(data, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
                value, position = data[position : position + length], position + length
            fields.setdefault(key >> 3, []).append(value)
    except (IndexError, KeyError):
        pass
    return fields


def _inner(fields: Fields, number: int) -> Fields:
    return message(fields.get(number, [b""])[-1])


def _text(fields: Fields, number: int) -> str:
    value = fields.get(number, [b""])[-1]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else ""


def _number(fields: Fields, number: int) -> int:
    value = fields.get(number, [0])[-1]
    return value if isinstance(value, int) else 0
