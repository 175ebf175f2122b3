"""What systemd wants to hear: that the service is ready, alive, and stopping."""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send a line to the service manager, where there is one; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.sendto(message.encode(), address)
