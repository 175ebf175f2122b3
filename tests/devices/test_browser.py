"""Profiling in a real Chromium, by the printed link; and links that are wrong, used or never opened."""

from __future__ import annotations

import http.client
import io
import json
import ssl
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgevit.bundle.read import read_bundle
from edgevit.core.files import cache_folder
from edgevit.devices.base import Reach, open_device
from edgevit.devices.kinds import browser as browser_module
from edgevit.devices.kinds.browser import BrowserDevice
from edgevit.devices.runtimes.npm import NpmPackage, unpack, web_files
from edgevit.errors import DeviceFailed, DeviceUnreachable, EnvironmentIncomplete, UsageError
from edgevit.profiling.compare import compare
from edgevit.profiling.contract import Settings
from edgevit.profiling.measure import profile
from tests.conftest import Exported
from tests.devices.chromium import SOFTWARE_GPU, Browser, profile_in_browser

pytestmark = pytest.mark.system

SHORT = ("--seconds", "1.5", "--allow-noisy", "--json", "--install-runtime")


def test_both_formats_come_back_with_the_hosts_answers(exported: Exported, tmp_path: Path) -> None:
    done = profile_in_browser(
        "profile", exported(target="litert"), exported(), "-d", "browser:", "--threads", "1", *SHORT,
        browser=Browser(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.url.startswith("http://127.0.0.1:")
    found = json.loads(done.stdout)["profiles"]
    assert [one["runtime"]["name"] for one in found] == ["litert-js", "onnxruntime-web"]
    for one in found:
        assert one["answers"]["equal"] and one["answers"]["probes"] == 6
        assert one["latency"]["median"] > 0 and one["latency"]["runs"] > 10 and one["warmup"]["runs"] > 3
        assert "Chrom" in one["device"]["details"]["browser"] and not one["emulated"]


def test_threads_through_https(exported: Exported, tmp_path: Path) -> None:
    done = profile_in_browser(
        "profile", exported(target="litert"), exported(), "-d", "browser:", "--lan", "--threads", "2", *SHORT,
        browser=Browser(tmp_path, ("--ignore-certificate-errors",)),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.url.startswith("https://") and "127.0.0.1" not in done.url and "▀" in done.stderr
    for one in json.loads(done.stdout)["profiles"]:
        assert one["runtime"]["threads"] == 2 and one["answers"]["equal"]
        assert one["device"]["details"]["cross-origin isolated"] == "true"
        assert not any("threads" in reason for reason in one["reasons"])


def test_two_bundles_in_turns(exported: Exported, tmp_path: Path) -> None:
    done = profile_in_browser(
        "compare", exported(target="litert"), exported(), "-d", "browser:", "--threads", "1", "--seconds", "1",
        "--allow-noisy", "--json", "--install-runtime", browser=Browser(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["comparison"]
    assert found["pairs"] >= 20 and found["low"] <= found["ratio"] <= found["high"]


def test_a_gpu_made_of_software_is_not_quoted(exported: Exported, tmp_path: Path) -> None:
    done = profile_in_browser(
        "profile", exported(), "-d", "browser:", "--accelerator", "webgpu", *SHORT, "--publish", tmp_path / "r.jsonl",
        browser=Browser(tmp_path / "chromium", SOFTWARE_GPU),
    )  # fmt: skip
    one = json.loads(done.stdout)["profiles"][0]
    assert one["runtime"]["accelerator"] == "webgpu" and one["answers"]["equal"]
    assert "the GPU is a software emulation, no device's" in one["reasons"]
    assert one["status"] == "unstable" and done.returncode == 3 and not (tmp_path / "r.jsonl").exists()


def test_a_browser_that_is_closed_leaves_what_was_measured(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser_module, "_SILENT_S", 5.0)
    browser = Browser(tmp_path)

    def ask_person(text: str) -> None:
        browser.open(next(line for line in text.splitlines() if "#t=" in line))

    device = open_device("browser:", Reach(ask=ask_person, install_runtime=True, wait_s=60))
    batches: list[object] = []

    def listen(event: dict[str, object]) -> None:
        batches.extend([event] if event["event"] == "runs" else [])
        if len(batches) == 3:
            browser.close()

    try:
        found = profile(
            read_bundle(exported(target="litert")),
            device,
            Settings(threads=1, runs=10**9, seconds=300, warmup_limit_s=3, deadline_s=60),
            listen=listen,
        )
    finally:
        browser.close()
        device.close()
    assert found.status == "partial" and "does not answer any more" in found.reasons[0]
    assert found.latency is not None and found.latency.runs > 10


@pytest.fixture
def page() -> Iterator[BrowserDevice]:
    device = open_device("browser:", Reach(wait_s=1))
    assert isinstance(device, BrowserDevice)
    yield device
    device.close()


def ask(device: BrowserDevice, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, bytes]:
    at = urlsplit(device.url)
    connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=10)
    sent = {"Host": f"127.0.0.1:{at.port}", **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, body=body, headers=sent)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


def test_the_link_opens_once_and_only_with_its_token(page: BrowserDevice) -> None:
    token = page.url.partition("#t=")[2]
    assert ask(page, "POST", "/claim", X_Edgevit_Token="wrong")[0] == 403
    assert ask(page, "POST", "/claim")[0] == 403
    assert ask(page, "GET", "/next")[0] == 403 and ask(page, "POST", "/events", b"[]")[0] == 403
    status, data = ask(page, "POST", "/claim", X_Edgevit_Token=token)
    session = json.loads(data)["session"]
    assert status == 200
    assert ask(page, "POST", "/claim", X_Edgevit_Token=token)[0] == 403
    assert ask(page, "POST", "/events", b'[{"event": "x"}]', X_Edgevit_Session=session)[0] == 204
    assert ask(page, "POST", "/events", b"not json", X_Edgevit_Session=session)[0] == 400
    assert ask(page, "POST", "/events", b'[{"no": 1}]', X_Edgevit_Session=session)[0] == 400
    assert ask(page, "POST", "/events", b"[" * 100_000, X_Edgevit_Session=session)[0] == 400


def test_the_page_says_that_a_link_was_used(tmp_path: Path) -> None:
    device = open_device("browser:", Reach(wait_s=1))
    assert isinstance(device, BrowserDevice)
    ask(device, "POST", "/claim", X_Edgevit_Token=device.url.partition("#t=")[2])
    import subprocess

    from tests.devices.chromium import _SWITCHES, chromium

    command = [chromium(), *_SWITCHES, "--disable-gpu", f"--user-data-dir={tmp_path}", "--virtual-time-budget=5000"]
    done = subprocess.run([*command, "--dump-dom", device.url], capture_output=True, text=True, timeout=60, check=False)
    device.close()
    assert "This link was used already" in done.stdout


def test_only_listed_files_are_served_and_only_to_our_own_names(page: BrowserDevice) -> None:
    assert ask(page, "GET", "/")[0] == 200 and ask(page, "GET", "/runner.js")[0] == 200
    for path in ("/../pyproject.toml", "/%2e%2e/secret", "/etc/passwd", "/packages.json", "/model-1"):
        assert ask(page, "GET", path)[0] == 404
    assert ask(page, "GET", "/", Host="evil.example")[0] == 421
    assert ask(page, "POST", "/events", b"", Content_Length="99999999999")[0] == 413


def test_nobody_opens_the_link(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.devices.kinds.browser.web_files", lambda *_, **__: {})
    device = open_device("browser:", Reach(wait_s=0.5))
    with pytest.raises(DeviceUnreachable, match="nobody opened the link"):
        profile(read_bundle(exported(target="litert")), device, Settings())
    device.close()


@pytest.mark.parametrize("install", [False, True])
def test_the_link_is_given_once_the_pages_runtime_is_here(
    install: bool, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody fetches a phone to be told that something has to be fetched first."""
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:1")
    asked: list[str] = []
    device = open_device("browser:", Reach(wait_s=0.5, ask=asked.append, install_runtime=install))
    bundle = read_bundle(exported())
    said = "could not be fetched" if install else "is not here yet"
    for measure in (lambda: profile(bundle, device, Settings()), lambda: compare(bundle, bundle, device, Settings())):
        with pytest.raises(EnvironmentIncomplete if install else DeviceFailed, match=said):
            measure()
    device.close()
    assert asked == []


def test_a_stalled_handshake_does_not_stop_others() -> None:
    import socket

    device = open_device("browser:", Reach(lan=True, wait_s=1))
    assert isinstance(device, BrowserDevice)
    at = urlsplit(device.url)
    stalled = socket.create_connection((at.hostname or "", at.port or 0))
    time.sleep(0.2)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(at.hostname or "", at.port, timeout=10, context=context)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    stalled.close()
    connection.close()
    device.close()


@pytest.mark.parametrize("uri", ["browser:x", "browser:99999", "browser:-1"])
def test_a_bad_port(uri: str) -> None:
    with pytest.raises(UsageError):
        open_device(uri, Reach())


def test_a_port_in_use(page: BrowserDevice) -> None:
    with pytest.raises(UsageError, match="cannot be listened on"):
        open_device(f"browser:{urlsplit(page.url).port}", Reach())


def test_runtimes_are_not_fetched_without_being_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    with pytest.raises(DeviceFailed, match="is not here yet"):
        web_files("litert-js", install=False, announce=print)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", "http://127.0.0.1:1")
    with pytest.raises(EnvironmentIncomplete, match="could not be fetched"):
        web_files("litert-js", install=True, announce=lambda text: None)


def test_a_package_that_is_not_the_pinned_one_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        info = tarfile.TarInfo("package/a.js")
        info.size = 1
        packed.addfile(info, io.BytesIO(b"x"))
    package = NpmPackage("x", "1", "sha512-AAAA", {"a.js": "a.js"})
    with pytest.raises(EnvironmentIncomplete, match="is not the file that edgevit knows"):
        unpack(package, out.getvalue(), "here")
    assert not (cache_folder() / "web").exists()
