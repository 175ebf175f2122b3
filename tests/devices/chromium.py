"""A real Chromium without a window, opening the link that edgevit prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

_SWITCHES = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage", "--mute-audio", "--disable-extensions",
)  # fmt: skip
SOFTWARE_GPU = (
    "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
)  # fmt: skip


def chromium() -> str:
    """The program, installed if it is not there."""
    with FileLock("/tmp/edgevit-apt.lock"):
        if not shutil.which("chromium"):
            subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
            command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return "chromium"


@dataclass
class Browser:
    """Chromium with a folder of its own; ends with the block."""

    folder: Path
    switches: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def open(self, url: str) -> None:
        gpu = () if SOFTWARE_GPU[0] in self.switches else ("--disable-gpu",)
        command = [chromium(), *_SWITCHES, *gpu, *self.switches, f"--user-data-dir={self.folder}", url]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass(frozen=True)
class Done:
    """What the command line said at its end."""

    returncode: int
    stdout: str
    stderr: str
    url: str


def profile_in_browser(*arguments: object, browser: Browser, timeout: float = 180) -> Done:
    """Run `edgevit`, open the link that it prints, wait for its end."""
    chromium()
    command = [sys.executable, "-m", "edgevit.cli.app", *map(str, arguments)]
    asking = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    timer = threading.Timer(timeout, asking.kill)
    timer.start()
    said, url, out = [], "", []
    # A long document would fill the pipe while the lines of the other one are waited for.
    reader = threading.Thread(target=lambda: out.append(asking.stdout.read() if asking.stdout else ""))
    reader.start()
    try:
        assert asking.stderr is not None
        for line in asking.stderr:
            said.append(line)
            found = re.search(r"https?://\S+/#t=\S+", line)
            if found and not url:
                url = found[0]
                browser.open(url)
        reader.join()
        return Done(asking.wait(), "".join(out), "".join(said), url)
    finally:
        timer.cancel()
        asking.kill()
        asking.wait()
        browser.close()
