"""What systemd wants to hear, that the service is ready, alive and stopping, and the unit that starts it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


def notify(message: str) -> None:
    """Send a line to the service manager, where there is one; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(message.encode(), address)


def unit(template: str, user: str, folder: str) -> str:
    """The unit for a user and a folder, whatever characters their names have; see systemd.syntax(7).

    Args:
        template: of the unit, with ``@USER@``, ``@FOLDER@`` and ``@QUOTED_FOLDER@``.
        user: who runs the service.
        folder: the app's, absolute.

    Raises:
        ValueError: systemd cannot be told a name with a line break, or one that ends in a space or a backslash.
    """
    if any(char in folder for char in "\r\n") or folder != folder.strip() or folder.endswith("\\"):
        raise ValueError(f"systemd cannot use a folder of this name, move the app: {folder!r}")
    plain = folder.replace("%", "%%")
    quoted = '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
    values = {"@USER@": user.replace("%", "%%"), "@FOLDER@": plain, "@QUOTED_FOLDER@": quoted}
    lines = []
    for line in template.splitlines():
        found = next((name for name in values if name in line), "")
        lines.append(line.replace(found, values[found]) if found else line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    given_user, given_folder = sys.argv[1:]
    text = (Path(given_folder) / "edgevit-classifier.service").read_text(encoding="utf-8")
    try:
        sys.stdout.write(unit(text, given_user, given_folder))
    except ValueError as error:
        sys.exit(f"error: {error}")
