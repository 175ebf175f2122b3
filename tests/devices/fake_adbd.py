"""The device's side of adb's protocol, for what the real adbd of Debian cannot show: a phone that refuses, is full,
or is unplugged. Its shell does not run anything: it answers from a table.

Messages: 24 bytes (command, two arguments, length, checksum, magic), then data. system/core/adb/protocol.txt of AOSP.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

_BANNER = b"device::ro.product.name=fake;ro.product.model=Fake;ro.product.device=fake;features=shell_v2,cmd,stat_v2"
_VERSION, _LARGEST = 0x01000001, 1 << 18
_STDOUT, _EXIT = 1, 3

Answer = Callable[[str], "Said | None"]


@dataclass(frozen=True)
class Said:
    """What a command prints, how it ends, and whether the cable is pulled after that."""

    text: str = ""
    status: int = 0
    unplug: bool = False


@dataclass
class FakePhone:
    """Listens on the loopback interface.

    Attributes:
        answer: what a shell command says; None for nothing and success.
        authorised: whether the person accepted this computer.
        refuse_files: said in place of taking a pushed file.
        unplug_at: bytes of a pushed file after which the cable is pulled.
    """

    answer: Answer = lambda command: None
    authorised: bool = True
    refuse_files: str = ""
    unplug_at: int = 0
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.serial = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=_Link(self, connection).serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()


class _Link:
    def __init__(self, phone: FakePhone, connection: socket.socket) -> None:
        self.phone, self.connection = phone, connection
        self.lock = threading.Lock()
        self.synced: dict[int, bytearray] = {}
        self.peers: dict[int, int] = {}

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        number = int.from_bytes(command, "little")
        header = struct.pack("<6I", number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF)
        with self.lock:
            self.connection.sendall(header + data)

    def receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self.connection.recv(size - len(data))
            if not got:
                raise ConnectionError
            data += got
        return data

    def unplug(self) -> None:
        self.phone.close()
        self.connection.close()
        raise ConnectionError

    def serve(self) -> None:
        try:
            while True:
                number, first, second, length, _, _ = struct.unpack("<6I", self.receive(24))
                self.take(number.to_bytes(4, "little"), first, second, self.receive(length))
        except (ConnectionError, OSError):
            self.connection.close()

    def take(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN" and self.phone.authorised:
            self.send(b"CNXN", _VERSION, _LARGEST, _BANNER)
        elif command in (b"CNXN", b"AUTH"):
            # A signature is never the right one, and a public key waits for a person's tap.
            if command == b"CNXN" or first == 2:
                self.send(b"AUTH", 1, 0, bytes(20))
        elif command == b"OPEN":
            self.open(first, data.rstrip(b"\0").decode())
        elif command == b"WRTE":
            self.send(b"OKAY", second, first)
            if second in self.synced:
                self.synced[second] += data
                self.sync(second, first)
        elif command == b"CLSE":
            self.synced.pop(second, None)

    def open(self, peer: int, service: str) -> None:
        kind, _, argument = service.partition(":")
        own = peer + 1000
        self.send(b"OKAY", own, peer)
        if kind == "sync":
            self.synced[own] = bytearray()
        elif kind.startswith("shell"):
            self.phone.commands.append(argument)
            said = self.phone.answer(argument) or Said()
            if said.text:
                self.send(b"WRTE", own, peer, struct.pack("<BI", _STDOUT, len(said.text)) + said.text.encode())
            if said.unplug:
                self.unplug()
            self.send(b"WRTE", own, peer, struct.pack("<BI", _EXIT, 1) + bytes([said.status]))
            self.send(b"CLSE", own, peer)

    def sync(self, own: int, peer: int) -> None:
        waiting = self.synced[own]
        if self.phone.unplug_at and len(waiting) > self.phone.unplug_at:
            self.unplug()
        if waiting[:4] in (b"STAT", b"STA2", b"LST2"):
            size = {b"STAT": 16, b"STA2": 72, b"LST2": 72}[bytes(waiting[:4])]
            kind = bytes(waiting[:4])
            waiting.clear()
            self.send(b"WRTE", own, peer, kind + bytes(size - 4))
        if waiting.endswith(b"QUIT" + bytes(4)):
            self.synced.pop(own)
            self.send(b"CLSE", own, peer)
        elif b"DONE" in waiting:
            waiting.clear()
            text = self.phone.refuse_files.encode()
            reply = struct.pack("<4sI", b"FAIL", len(text)) + text if text else struct.pack("<4sI", b"OKAY", 0)
            self.send(b"WRTE", own, peer, reply)
