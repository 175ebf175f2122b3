"""A process that imports every toolchain once and is forked for each program: ``fork_server.py SOCKET [at-once]``.

A request is one JSON document with three descriptors, the program's standard streams. The answers are its process
and, when it has ended, its status. The server ends when its own standard input closes.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# coremltools first: it is imported as if those after it were not installed.
_IMPORTED = (
    "edgevit.graph.prepare", "edgevit.backends.coreml.import_coremltools", "timm", "torch._dynamo", "torch.export.pt2_archive",
    "torch.onnx._internal.exporter._core", "onnxscript", "onnxruntime", "litert_torch", "executorch.exir",
    "executorch.backends.xnnpack.partition.xnnpack_partitioner", "sklearn.datasets", "tests.forked",
)  # fmt: skip


def _import_all() -> None:
    from edgevit.models.torchvision_fix import fix_torchvision_import

    gc.disable()
    fix_torchvision_import()
    for module in _IMPORTED:
        import_module(module)
    gc.freeze()  # a collection would touch, and so copy, most of the memory that forks share
    gc.enable()


def _become(request: dict[str, Any], streams: list[int]) -> None:
    """Turn a fork into the program, and end with it.

    Threads that libraries started are not in a fork, and waiting for them at the interpreter's end would be forever.
    """
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = ["", *request["arguments"]]
    sys.modules["tests.forked"].fork_workers()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status: Any = 0
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _close(key: selectors.SelectorKey) -> None:
    """What a fork has no business with: sockets, and other programs' descriptors and sockets."""
    if isinstance(key.fileobj, socket.socket):
        key.fileobj.close()
    if key.data:
        os.close(key.fd)
        key.data[1].close()


def _read(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and its streams."""
    size = struct.unpack("!I", connection.recv(4, socket.MSG_WAITALL))[0]
    data, streams, _, _ = socket.recv_fds(connection, size, 3)
    if len(data) < size:
        data += connection.recv(size - len(data), socket.MSG_WAITALL)
    return json.loads(data), streams


def _fork(waiting: selectors.BaseSelector, connection: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """A program of its own for a request; in the fork, returns the request and its streams."""
    request, streams = _read(connection)
    process = os.fork()
    if request["group"]:
        os.setpgid(process, process or os.getpid())
    if process == 0:
        for one in waiting.get_map().values():
            _close(one)
        connection.close()
        return request, streams
    for stream in streams:
        os.close(stream)
    connection.sendall(struct.pack("!i", process))
    waiting.register(os.pidfd_open(process), selectors.EVENT_READ, (process, connection))
    return None


def _tell(waiting: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """How a program ended, to who asked for it."""
    process, connection = key.data
    waiting.unregister(key.fileobj)
    os.close(key.fd)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with connection, suppress(OSError):
        connection.sendall(struct.pack("!i", status))


def serve(path: Path, *, at_once: bool) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for every request; in the fork, returns the request and its streams."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    waiting = selectors.DefaultSelector()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    waiting.register(0, selectors.EVENT_READ)
    waiting.register(listening, selectors.EVENT_READ)
    imported = at_once
    if at_once:
        _import_all()
    while True:
        for key, _ in waiting.select():
            if key.fileobj == 0:
                return None
            if key.fileobj is not listening:
                _tell(waiting, key)
                continue
            connection, _ = listening.accept()
            if not imported:
                _import_all()
                imported = True
            forked = _fork(waiting, connection)
            if forked:
                return forked


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[1])
    found = serve(Path(sys.argv[1]), at_once="at-once" in sys.argv)
    if found:
        _become(*found)
