"""edgevit's working folder on a remote shell device: content-addressed files and runtimes.

Nothing is written outside of it.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

from edgevit.core.digest import sha256_file
from edgevit.devices.runner_process import last_line
from edgevit.devices.runtimes.wheels import LIBRARY, MARKER, Installation, prepare
from edgevit.errors import DeviceFailed, EdgevitError

COMMAND_S = 120.0
"""Seconds for a short command on the device, such as creating a folder."""
UNPACK_S = 900.0
"""Seconds for unpacking the archive of a runtime on the device."""
KILL_AFTER_S, LATER_S = 3, 5
"""The runner's own deadline comes first; `timeout` on the device is for one that cannot keep it."""
_LARGE = 1 << 20
"""Bytes from which a transfer is announced (1 MiB)."""
_PART, _NOT_WHOLE = ".part-", "edgevit-not-whole"
_TIDY_S, _STALE_MIN = 10.0, 10
"""Minutes without a write after which a partial file counts as abandoned, not as a transfer still under way."""


class DeviceFolder(ABC):
    """The working folder on a device; subclasses supply how commands and files get there.

    Attributes:
        folder: its path on the device.
        uri: of the device, for messages.
    """

    def __init__(self, folder: str, uri: str, announce: Callable[[str], None]) -> None:
        self.folder, self.uri = folder, uri
        self._announce = announce
        self._there: dict[str, str] = {}

    @abstractmethod
    def shell(self, command: str, *, limit_s: float = COMMAND_S) -> str:
        """Run a command with `sh` on the device and return its output.

        Raises:
            DeviceUnreachable: the connection broke, or there was no answer in time.
            DeviceFailed: the command failed.
        """

    @abstractmethod
    def send(self, path: Path, place: str, finish: str) -> None:
        """Write a file's content to a path on the device, then run a command there; raises as `shell` does.

        Where either fails or the connection breaks, nothing is left at that place.
        """

    def put(self, path: Path) -> str:
        """Send a file unless one of the same content exists; it appears only once it is complete."""
        digest = sha256_file(path)
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[-80:]
        place = f"{self.folder}/files/{digest[:16]}-{plain}"
        if self._there.get(place) == digest:
            return place
        final, scratch = shlex.quote(place), f"{place}{_PART}{secrets.token_hex(4)}"
        if self.shell(f"{self._make_files()} && if [ -f {final} ]; then echo there; fi") != "there":
            size = path.stat().st_size
            if size > _LARGE:
                self._announce(f"sending {path.name}, {size / 1e6:.1f} MB")
            part = shlex.quote(scratch)
            check = f"echo {shlex.quote(f'{digest}  {scratch}')} | sha256sum -c >/dev/null 2>&1"
            try:
                self.send(path, scratch, f"{check} || {{ echo {_NOT_WHOLE} >&2; exit 1; }}; mv {part} {final}")
            except DeviceFailed:
                self.shell(f"rm -f {part}")
                raise
            except KeyboardInterrupt:
                with contextlib.suppress(EdgevitError):
                    self.shell(f"rm -f {part}", limit_s=_TIDY_S)
                raise
        self._there[place] = digest
        return place

    def _make_files(self) -> str:
        """The command that creates the folder of files and removes old incomplete transfers from it."""
        files = f"{shlex.quote(self.folder)}/files"
        old = f"find {files} -name '*{_PART}*' -mmin +{_STALE_MIN} -exec rm -f {{}} + 2>/dev/null"
        return f"mkdir -p {files} && {{ {old} || true; }}"

    def failed(self, output: str) -> DeviceFailed:
        """The error that a failed command or transfer means."""
        if re.search("No space left on device|Disk quota exceeded|ENOSPC", output):
            cure = f"free some there; this removes what edgevit put there: edgevit devices {self.uri} --clean"
            return DeviceFailed("there is no space left on the device", where=self.folder, cure=cure)
        if _NOT_WHOLE in output:
            cure = "try again; a cable is more reliable than a wireless network"
            return DeviceFailed("a file did not arrive whole on the device", where=self.folder, cure=cure)
        if re.search("Read-only file system|Permission denied|Operation not permitted", output):
            return DeviceFailed("edgevit cannot write on the device", where=last_line(output))
        return DeviceFailed("a command failed on the device", where=last_line(output))

    def runtime_folder(self, runtime: str) -> str:
        """The path of a runtime in the folder, whether it exists or not."""
        return f"{self.folder}/runtimes/{runtime}"

    def _marker(self, runtime: str) -> dict[str, object]:
        place = shlex.quote(self.runtime_folder(runtime))
        try:
            found = json.loads(self.shell(f"cat {place}/{MARKER} 2>/dev/null || echo '{{}}'"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def own(self) -> dict[str, str]:
        """Runtimes in the folder: path by name."""
        place = shlex.quote(f"{self.folder}/runtimes")
        output = self.shell(f'for one in {place}/*/{MARKER}; do if [ -f "$one" ]; then echo "$one"; fi; done')
        folders = [line.rpartition("/")[0] for line in output.splitlines()]
        return {folder.rpartition("/")[2]: folder for folder in folders}

    def library(self, runtime: str) -> tuple[str, str]:
        """Path of edgevit's library beside a runtime's own ones, and the runtime's version; empty without one."""
        marker = self._marker(runtime)
        if not marker.get("library"):
            return "", ""
        return f"{self.runtime_folder(runtime)}/{LIBRARY}", str(marker.get("version", ""))

    def bring(self, wanted: Installation) -> None:
        """Install a runtime in the folder, unless it is there."""
        if self._marker(wanted.runtime) == wanted.marker():
            return
        self._announce(f"fetching {wanted.runtime} for {wanted.machine}, Python {wanted.python}")
        self.unpack(prepare(wanted), self.runtime_folder(wanted.runtime))

    def unpack(self, archive: Path, place: str, mark: str = "") -> None:
        """Replace a folder by an archive's content, all or nothing; ``mark`` is written into its marker file."""
        pushed, final, part = shlex.quote(self.put(archive)), shlex.quote(place), shlex.quote(f"{place}.part")
        write = f"printf %s {shlex.quote(mark)} >{part}/{MARKER}; " if mark else ""
        self.shell(
            f"set -e; mkdir -p {shlex.quote(self.folder)}/runtimes; rm -rf {part}; "
            f"trap 'rm -rf {part} {pushed}' EXIT; trap 'exit 1' HUP INT TERM PIPE; "
            f"mkdir {part}; tar -xzf {pushed} -C {part}; {write}rm -rf {final}; mv {part} {final}",
            limit_s=UNPACK_S,
        )
        self._there.clear()

    def clean(self) -> int:
        """Remove the folder; returns its size in bytes."""
        place = shlex.quote(self.folder)
        size = self.shell(f"if [ -d {place} ]; then du -sk {place} | cut -f1; rm -rf {place}; else echo 0; fi")
        self._there.clear()
        return int(size.split()[0]) * 1024
