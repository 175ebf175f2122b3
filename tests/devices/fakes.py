"""Runtimes that misbehave: modules in the place of onnxruntime, in edgevit's own folder on a device."""

from __future__ import annotations

from pathlib import Path

_SESSION = """
class SessionOptions:
    pass


class _Input:
    name = "image"


class InferenceSession:
    def __init__(self, path, options, providers):
        self.runs = 0

    def get_inputs(self):
        return [_Input()]

    def run(self, names, feeds):
        self.runs += 1
        return act(self.runs, feeds)
"""

FAULTS = {
    "stuck": "import time\n\ndef act(run, feeds):\n    time.sleep(10_000)\n",
    "stopped": "import os, signal\n\ndef act(run, feeds):\n    os.kill(os.getpid(), signal.SIGSTOP)\n",
    "illegal": "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n",
    "killed": "import os, signal\n\ndef act(run, feeds):\n    os.kill(os.getpid(), signal.SIGKILL)\n",
    "crashing": "import os, signal\n\ndef act(run, feeds):\n    os.kill(os.getpid(), signal.SIGSEGV)\n",
    "hungry": "def act(run, feeds):\n    raise MemoryError\n",
    "chatty": "import os\nos.write(1, b'loading...\\n')\n\ndef act(run, feeds):\n    print('hello')\n    raise ValueError('no')\n",
    "slow": (
        "import time, numpy\n\ndef act(run, feeds):\n    time.sleep(0.02)\n"
        "    return [numpy.zeros((1, 10), numpy.float32)]\n"
    ),
}


def plant(own: Path, fault: str, version: str = "1.31.1") -> None:
    """Put a misbehaving runtime where an installed one would be."""
    folder = own / "runtimes/onnxruntime"
    package = folder / "onnxruntime"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(FAULTS[fault] + _SESSION)
    info = folder / f"onnxruntime-{version}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: onnxruntime\nVersion: {version}\n")
