"""The fleet page in a real browser, against a real fleet: members are pulled out and put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from edgevit.templates.create import new_app
from tests.apps.pages import browser, page
from tests.fleet.lab import free_port
from tests.fleet.test_commands import pictures  # noqa: F401  # a fixture

pytestmark = pytest.mark.system


@contextmanager
def shown(app: Path, *arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The running page: its address, its process."""
    command = [sys.executable, "fleet_page.py", "--port", str(free_port()), *map(str, arguments)]
    process = subprocess.Popen(command, cwd=app, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.fixture
def app(small_plan: Path, tmp_path: Path) -> Path:
    new_app("fleet", small_plan, tmp_path / "app")
    return tmp_path / "app"


def post(url: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="POST", headers=headers), timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_member_is_pulled_out_and_put_back(app: Path, pictures: Path) -> None:  # noqa: F811
    from playwright.sync_api import expect

    with shown(app, "--input", pictures, "--rate", 10) as (url, process), browser() as chrome:
        members = {one.pid for one in psutil.Process(process.pid).children(recursive=True)}
        view = {"width": 1100, "height": 800}
        with page(chrome, url, viewport=view) as found:
            expect(found.locator("#members li[data-state=healthy]")).to_have_count(3, timeout=60_000)
            expect(found.locator("#who")).to_contain_text("3 of 3 members", timeout=20_000)
            assert found.get_attribute("#picture", "src").startswith("data:image/jpeg;base64,")  # type: ignore[union-attr]
            for name in ("member-1", "member-2", "member-3"):
                expect(found.locator(f"li[data-member={name}] .ms")).to_contain_text(" ms")
            second = found.locator("li[data-member=member-2]")
            second.get_by_role("button", name="Pull out member-2").click()
            expect(second).to_have_attribute("data-state", "absent", timeout=20_000)
            expect(found.locator("#who")).to_contain_text("2 of 3 members", timeout=10_000)
            expect(found.locator("#who")).to_contain_text("member-2: absent")
            assert len(members - {one.pid for one in psutil.Process(process.pid).children(recursive=True)}) >= 1
            expect(found.locator("#answer")).to_contain_text("%")
            expect(found.locator("#log")).to_contain_text("member-2 is gone")
            folder = os.environ.get("EDGEVIT_SCREENSHOTS")
            if folder:
                found.screenshot(path=str(Path(folder) / "fleet-1100-light.png"))
            second.get_by_role("button", name="Put back member-2").click()
            expect(second).to_have_attribute("data-state", "healthy", timeout=30_000)
            expect(found.locator("#who")).to_contain_text("3 of 3 members", timeout=10_000)
            expect(second).to_contain_text("came back 1 ×")
            counts = [int(one) for one in found.locator("#tally dd").all_inner_texts()]
            assert counts[0] == sum(counts[1:]) and counts[1] > 0 and counts[2] > 0
            assert counts[3] == 0, "no picture was left without an answer"
            found.set_viewport_size({"width": 390, "height": 844})
            found.emulate_media(color_scheme="dark")
            assert found.evaluate("() => document.documentElement.scrollWidth") <= 390
            if folder:
                found.screenshot(path=str(Path(folder) / "fleet-390-dark.png"), full_page=True)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            expect(found.locator("#link")).to_contain_text("does not answer", timeout=10_000)
        assert not [pid for pid in members if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


def test_only_the_page_itself_can_press_its_buttons(app: Path) -> None:
    with shown(app, "--rate", 1) as (url, _):
        host = url.removeprefix("http://").rstrip("/")
        assert post(f"{url}members/member-1/out") == 403
        assert post(f"{url}members/member-1/out", Origin="http://a.page.of.others") == 403
        assert post(f"{url}members/nobody/out", Origin=f"http://{host}") == 404
        assert post(f"{url}members/member-1/out", Origin=f"http://{host}") == 204
        request = urllib.request.Request(url, headers={"Host": "a.page.of.others"})
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=5)


def test_what_cannot_be_shown_is_explained(app: Path, tmp_path: Path) -> None:
    for arguments, says in (
        (["--plan", tmp_path / "nowhere"], "there is no plan"),
        (["--port", free_port(), "--input", tmp_path / "nowhere"], "there is no picture or folder"),
        (["--devices", "--listen", "0.0.0.0:7447"], "--insecure"),
    ):
        command = [sys.executable, "fleet_page.py", *map(str, arguments)]
        done = subprocess.run(command, cwd=app, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        assert says in done.stderr and "Traceback" not in done.stderr
