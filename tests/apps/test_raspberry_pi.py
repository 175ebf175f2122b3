"""The Raspberry Pi app as its users run it: a video file, a real MQTT broker, systemd's socket, what goes wrong."""

from __future__ import annotations

import importlib
import io
import json
import os
import queue
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgevit.bundle.loaded import load
from edgevit.data.digits import digits_arrays
from edgevit.templates.create import new_app
from tests.apps.pages import browser, page
from tests.apps.toolboxes import debian
from tests.conftest import Exported
from tests.devices.test_emulated import able  # noqa: F401  # a fixture
from tests.fleet.lab import ROOT, free_port
from tests.fleet.test_emulated_member import install_for_pi

pytestmark = pytest.mark.system


@pytest.fixture
def app(exported: Exported, tmp_path: Path) -> Path:
    """A new app around a bundle."""
    new_app("raspberry-pi", exported("tinyvit_digits", "litert"), tmp_path / "app")
    return tmp_path / "app"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five pictures of a seven and three files that are none."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = digits_arrays("test")
    for number, image in enumerate(images[labels == 7][:5]):
        Image.fromarray(image).save(folder / f"{number}.png")
    (folder / "3b.jpg").write_text("this is no picture")
    (folder / "4b.png").write_bytes(b"")
    Image.new("L", (10_000, 5_000)).save(folder / "5b.png")
    return folder


@pytest.fixture(scope="module")
def video(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sevens, ten times as large, as a film."""
    import cv2

    path = tmp_path_factory.mktemp("video") / "sevens.avi"
    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (320, 320))
    for name in sorted(digits.glob("[0-4].png")):
        large = np.asarray(Image.open(name).resize((320, 320), Image.Resampling.BICUBIC))
        for _ in range(4):
            film.write(cv2.cvtColor(large, cv2.COLOR_RGB2BGR))
    film.release()
    return path


def configure(app: Path, **sections: dict[str, Any]) -> int:
    """Write another configuration; returns the page's port."""
    port = free_port()
    sections = {**sections, "http": {"port": port, **sections.get("http", {})}}
    lines = [
        f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in one.items()) for name, one in sections.items()
    ]
    (app / "classifier.toml").write_text("\n".join(lines))
    return port


@contextmanager
def running(app: Path, *arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """The service; killed at the end if it still runs."""
    command = [sys.executable, "-m", "classifier", *arguments]
    process = subprocess.Popen(command, cwd=app, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str = "status.json", **headers: str) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


def until(port: int, good: Any, seconds: float = 30) -> dict[str, Any]:
    """Wait until the status is good."""
    ends, found = time.monotonic() + seconds, {}
    while time.monotonic() < ends:
        try:
            found = json.loads(get(port))
        except OSError:
            found = {}
        if found and good(found):
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def stop(process: subprocess.Popen[str]) -> str:
    """Ask it to end; returns its log."""
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=20)[1]
    assert process.returncode == 0, said
    return said


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_app_s_own_golden_test_passes(app: Path, exported: Exported, precision: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=app, capture_output=True, text=True, check=False,
        env={**os.environ, "EDGEVIT_BUNDLE": str(exported("tinyvit_digits", "litert", precision))},
    )  # fmt: skip
    assert "7 passed" in done.stdout, done.stdout


def test_a_video_is_classified_and_served(app: Path, video: Path, digits: Path) -> None:
    port = configure(app, input={"source": str(video), "most_per_second": 50.0})
    with running(app) as process:
        found = until(port, lambda one: one["seen"] == "7" and one["pictures"] > 25)
        assert found["model"] == "tinyvit_digits (fp32)" and found["runtime"].startswith("ai-edge-litert")
        assert len(found["top"]) == 5 and found["took_ms"] > 0 and found["per_second"] > 1
        picture = Image.open(io.BytesIO(get(port, "picture.jpg")))
        assert picture.size == (320, 320)
        assert json.loads(get(port, "healthz")) == {"ok": True, "trouble": ""}
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get(port, Host="a.page.of.others")
        said = stop(process)
    assert "seen: 7" in said and "stopped after" in said
    assert "torch" not in said


def test_pictures_that_cannot_be_read_are_passed_over(app: Path, digits: Path) -> None:
    port = configure(app, input={"source": str(digits), "most_per_second": 50.0, "repeat": False})
    with running(app) as process:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
    assert port and "stopped after 5 pictures" in said
    for text in (
        "3b.jpg: the file is not a picture",
        "4b.png: the picture is an empty file",
        "5b.png: the picture has 50",
    ):
        assert text in said
    assert "Traceback" not in said
    model = load(app / "model")
    assert model.predict(digits / "0.png")[0].label == "7"


def test_a_camera_that_is_not_there_is_tried_again(app: Path) -> None:
    port = configure(app, input={"source": "camera:7"})
    with running(app) as process:
        found = until(port, lambda one: one["trouble"])
        assert "camera 7 does not answer; trying again in" in found["trouble"]
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(port, "healthz")
        stop(process)


def test_picamera2_is_used_where_it_is(app: Path) -> None:
    """A stand-in with the calls of the real one, which cannot be had here."""
    (app / "picamera2.py").write_text(
        "import numpy as np\n"
        "class Picamera2:\n"
        "    def __init__(self, number):\n        self.number = number\n"
        "    def create_video_configuration(self, main):\n        return main\n"
        "    def configure(self, main):\n        assert main == {'size': (640, 480), 'format': 'BGR888'}\n"
        "    def start(self):\n        pass\n"
        "    def capture_array(self, name):\n        return np.full((480, 640, 3), (200, 10, 20), np.uint8)\n"
        "    def close(self):\n        pass\n"
    )
    port = configure(app, input={"source": "camera"})
    with running(app, PYTHONPATH=str(app)) as process:
        until(port, lambda one: one["pictures"] > 2)
        red, green, blue = np.asarray(Image.open(io.BytesIO(get(port, "picture.jpg"))))[100, 100]
        assert red > 180 and green < 40 and blue < 50
        stop(process)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": {"sauce": "x"}}, "input.sauce"),
        ({"model": {"folder": "nowhere"}}, "/app/nowhere"),
        ({"input": {"source": "nowhere.mp4"}}, "/app/nowhere.mp4"),
        ({"http": {"port": 70000}}, "http.port"),
    ],
    ids=["unknown key", "no bundle", "no video", "port"],
)
def test_a_wrong_configuration_is_explained(app: Path, change: dict[str, Any], says: str) -> None:
    configure(app, **change)
    with running(app) as process:
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 2
    assert says in said and "Traceback" not in said


def test_a_taken_port_and_a_bundle_of_features_are_explained(app: Path, small_plan: Path, digits: Path) -> None:
    from edgevit.schema.plan import read_plan

    with socket.create_server(("127.0.0.1", 0)) as other:
        configure(app, http={"port": other.getsockname()[1]}, input={"source": str(digits)})
        with running(app) as process:
            said = process.communicate(timeout=60)[1]
            assert process.returncode == 2 and "Address already in use" in said and "Traceback" not in said
    features = small_plan / read_plan(small_plan).sub_models[0].bundle
    configure(app, model={"folder": str(features)}, input={"source": str(digits)})
    with running(app) as process:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 2 and "--output probabilities" in said and "Traceback" not in said


def test_systemd_hears_ready_alive_and_stopping(app: Path, digits: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    configure(app, input={"source": str(digits / "0.png"), "most_per_second": 20.0})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(20)
        with running(app, NOTIFY_SOCKET=path) as process:
            heard = [manager.recv(100) for _ in range(4)]
            stop(process)
        assert heard[0] == b"READY=1" and set(heard[1:]) == {b"WATCHDOG=1"}
        while (last := manager.recv(100)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"


def test_the_unit_and_the_installer_are_valid(app: Path) -> None:
    import configparser

    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(app / "edgevit-classifier.service")
    assert unit["Service"]["Type"] == "notify" and unit["Service"]["WatchdogSec"] == "60"
    assert subprocess.run(["sh", "-n", str(app / "install.sh")], check=False).returncode == 0


NAMES = ["app", "my app", 'a"b', "100%h", "cost$HOME", "back\\slash", "Küche \u2603", "it's", "%n %% $$ ;"]


@pytest.mark.parametrize("name", NAMES)
def test_the_unit_is_right_in_a_folder_of_any_name(name: str, tmp_path: Path) -> None:
    """Read back by systemd's rules; where systemd is here, it reads the unit too."""
    template = (ROOT / "apps/raspberry-pi/edgevit-classifier.service").read_text()
    folder = tmp_path / name
    (folder / ".venv/bin").mkdir(parents=True)
    found = classifier("systemd").unit(template, "root", str(folder))
    lines = dict(line.split("=", 1) for line in found.splitlines() if "=" in line and not line.startswith("#"))
    assert lines["WorkingDirectory"].replace("%%", "%") == str(folder)
    (writable,) = shlex.split(lines["ReadWritePaths"])
    assert writable.replace("%%", "%") == str(folder)
    assert shlex.split(lines["ExecStart"]) == ["/bin/sh", "-c", "exec .venv/bin/python -m classifier"]
    assert lines["User"] == "root" and "@" not in found
    if shutil.which("systemd-analyze"):
        (tmp_path / "t.service").write_text(found)
        command = ["systemd-analyze", "verify", str(tmp_path / "t.service")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "t.service" not in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["a\nb", "ends in a space ", "ends in a backslash\\"])
def test_a_folder_that_systemd_cannot_be_told_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="move the app"):
        classifier("systemd").unit("WorkingDirectory=@FOLDER@", "pi", f"/home/pi/{name}")


def classifier(name: str) -> Any:
    """A module of the template."""
    sys.path.insert(0, str(ROOT / "apps/raspberry-pi"))
    try:
        return importlib.import_module(f"classifier.{name}")
    finally:
        sys.path.pop(0)


def test_paths_are_relative_to_the_configuration_wherever_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    path = tmp_path / "app/classifier.toml"
    path.write_text(
        '[input]\nsource = "photos"\n[mqtt]\npassword_file = "secret"\nca_file = "/etc/ca.pem"\n[log]\nfile = "log.txt"\n'
    )
    found = classifier("config").read_config(path)
    assert found.model.folder == tmp_path / "app/model"
    assert found.input.source == str(tmp_path / "app/photos")
    assert found.mqtt.password_file == str(tmp_path / "app/secret")
    assert (found.mqtt.ca_file, found.log.file) == ("/etc/ca.pem", str(tmp_path / "app/log.txt"))
    for source in ("camera", "camera:1", "-", "/photos"):
        path.write_text(f'[input]\nsource = "{source}"\n')
        assert classifier("config").read_config(path).input.source == source
    assert classifier("config").read_config(path).log.file == ""


def test_every_app_has_a_name_of_its_own_with_the_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = classifier("config")
    template = (ROOT / "apps/raspberry-pi/classifier.toml").read_text()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "classifier.toml").write_text(template)
    first, again, second = (
        config.read_config(tmp_path / one / "classifier.toml").mqtt for one in ("one", "one", "two")
    )
    assert first == again, "the same each time that it starts"
    assert first.name != second.name and first.topic != second.topic
    assert first.topic == f"edgevit/classifier/{first.name}"
    board = tmp_path / "serial-number"
    monkeypatch.setattr(config, "_MACHINE_FILES", (str(board),))
    names = set()
    for serial in ("10000000aaaaaaaa\0", "10000000bbbbbbbb\0"):  # two copies of one card in two boards
        board.write_text(serial)
        for host in ("raspberrypi", "a-host-with-a-very-long-name.example.org", "Küche", ""):
            monkeypatch.setattr(config.platform, "node", lambda host=host: host)
            names.add(found := config.machine_name(tmp_path / "classifier.toml"))
            assert len(found) <= 23 and found.isascii()
    assert len(names) == 8
    (tmp_path / "classifier.toml").write_text('[mqtt]\nname = "door"\ntopic = "home/{name}"\n')
    own = config.read_config(tmp_path / "classifier.toml").mqtt
    assert (own.name, own.topic) == ("door", "home/door")


def test_the_log_is_rotated(app: Path, digits: Path) -> None:
    log = {"file": "log.txt", "megabytes": 0.0005, "kept": 2}
    source = {"source": str(digits), "most_per_second": 500.0}
    port = configure(app, log=log, input=source, answer={"steady": 1, "least": 0.0})
    with running(app) as process:
        until(port, lambda one: one["pictures"] > 60)
        stop(process)
    found = sorted(path.name for path in app.glob("log.txt*"))
    assert found == ["log.txt", "log.txt.1", "log.txt.2"]
    assert all((app / name).stat().st_size <= 500 for name in found)


@contextmanager
def broker(folder: Path, port: int) -> Iterator[int]:
    """A real mosquitto that asks for a password."""
    debian("mosquitto")
    folder.mkdir()
    home = folder / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(home), "pi", "secret"], check=True)
    (folder / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\npassword_file {home}\nuser root\n")
    process = subprocess.Popen(
        ["/usr/sbin/mosquitto", "-c", str(folder / "mosquitto.conf")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.kill()
        process.wait()


class Listener:
    """Hears everything that the broker tells."""

    def __init__(self, port: int) -> None:
        import paho.mqtt.client as mqtt

        self.heard: queue.Queue[tuple[str, str]] = queue.Queue()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self.client.username_pw_set("pi", "secret")
        self.client.on_message = lambda _c, _d, one: self.heard.put((one.topic, one.payload.decode()))
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        for _ in range(50):
            try:
                self.client.connect("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        self.client.loop_start()

    def wait_for(self, topic: str, good: Any, seconds: float = 30) -> str:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                found, text = self.heard.get(timeout=1)
            except queue.Empty:
                continue
            if found == topic and good(text):
                return text
        raise AssertionError(f"nothing good on {topic}")


def test_a_real_broker_hears_what_is_seen(app: Path, digits: Path, tmp_path: Path) -> None:
    (app / "password").write_text("secret\n")
    topic = "home/door"
    with broker(tmp_path / "broker", free_port()) as broker_port:
        listener = Listener(broker_port)
        mqtt = {
            "host": "127.0.0.1", "port": broker_port, "topic": topic, "username": "pi", "password_file": "password",
        }  # fmt: skip
        source = {"source": str(digits), "most_per_second": 50.0}
        configure(app, mqtt=mqtt, input=source)
        with running(app) as process:
            announced = json.loads(listener.wait_for("homeassistant/sensor/home_door/config", bool))
            assert announced["state_topic"] == f"{topic}/state"
            listener.wait_for(f"{topic}/availability", lambda text: text == "online")
            state = json.loads(listener.wait_for(f"{topic}/state", lambda text: json.loads(text)["seen"] == "7"))
            assert state["top"][0]["label"] == "7" and state["model"] == "tinyvit_digits (fp32)"
            stop(process)
        listener.wait_for(f"{topic}/availability", lambda text: text == "offline")
        with running(app) as process:  # the power fails: the broker says so
            listener.wait_for(f"{topic}/availability", lambda text: text == "online")
            process.kill()
            listener.wait_for(f"{topic}/availability", lambda text: text == "offline")
        listener.client.disconnect()
        listener.client.loop_stop()
        (app / "password").write_text("wrong")
        with running(app) as process:
            reader = threading.Thread(target=lambda: told.append(process.stderr.read()))  # type: ignore[union-attr]
            told: list[str] = []
            reader.start()
            time.sleep(4)
            process.send_signal(signal.SIGTERM)
            reader.join(20)
        assert "the broker refused the connection: Not authorized" in told[0]


def test_a_broker_that_comes_later_is_found(app: Path, digits: Path, tmp_path: Path) -> None:
    (app / "password").write_text("secret")
    later = free_port()
    mqtt = {"host": "127.0.0.1", "port": later, "username": "pi", "password_file": "password"}
    port = configure(app, mqtt=mqtt, input={"source": str(digits / "0.png"), "most_per_second": 20.0})
    with running(app) as process:
        until(port, lambda one: one["pictures"] > 10)
        with broker(tmp_path / "broker", later):
            listener = Listener(later)
            name = classifier("config").machine_name(app / "classifier.toml")
            listener.wait_for(f"edgevit/classifier/{name}/availability", lambda text: text == "online")
            listener.client.disconnect()
            listener.client.loop_stop()
            said = stop(process)
    assert "the broker at 127.0.0.1 does not answer" in said and "connected to the broker" in said
    assert "Traceback" not in said


def test_a_folder_without_a_good_picture_is_tried_again_and_not_in_a_hurry(app: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/notes.jpg").write_text("this is no picture")
    port = configure(app, input={"source": str(tmp_path / "bad")})
    with running(app) as process:
        until(port, lambda one: "no picture can be read" in one["trouble"])
        time.sleep(3)
        said = stop(process)
    assert 2 <= said.count("no picture can be read") <= 4


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1100, "light")])
def test_the_status_page_in_a_browser(app: Path, digits: Path, width: int, scheme: str) -> None:
    from playwright.sync_api import expect

    port = configure(app, input={"source": str(digits), "most_per_second": 10.0})
    with running(app) as process, browser() as chrome:
        until(port, lambda one: one["seen"])
        view = {"width": width, "height": 800}
        with page(chrome, f"http://127.0.0.1:{port}/", viewport=view, color_scheme=scheme) as found:
            expect(found.locator("#seen")).to_have_text("7", timeout=20_000)
            expect(found.locator("#top li")).to_have_count(5)
            found.wait_for_function("document.getElementById('picture').naturalWidth > 0")
            assert found.evaluate("document.documentElement.scrollWidth") <= width
            folder = os.environ.get("EDGEVIT_SCREENSHOTS")
            if folder:
                found.screenshot(path=str(Path(folder) / f"pi-{width}-{scheme}.png"))
            stop(process)
            expect(found.locator("#trouble")).to_have_text("The service does not answer.", timeout=10_000)


def test_on_an_emulated_raspberry_pi(app: Path, digits: Path, tmp_path: Path, able: None) -> None:  # noqa: F811
    """The same app, golden vectors and a folder of pictures on emulated ARM64, without torch."""
    from tools.lab.emulated import emulated_pi

    configure(app, input={"source": "digits", "repeat": False, "most_per_second": 50.0}, http={"port": 0})
    shutil.copytree(digits, app / "digits")
    with emulated_pi(13, "cortex-a76", tmp_path / "pi") as pi:
        home = pi.root / "home/pi" / f"app-{os.getpid()}"
        try:
            home.mkdir()
            install_for_pi(home / "site", "ai-edge-litert", "tornado", "paho-mqtt", "pytest")
            shutil.copytree(app, home / "app")
            for path in (home, *home.rglob("*")):
                os.chown(path, 1000, 1000)
            inside = f"/{home.relative_to(pi.root)}"
            host, port = pi.uri.removeprefix("ssh://").rsplit(":", 1)
            ssh = ["ssh", "-F", str(pi.ssh_config), "-p", port, host]
            here = f"cd {inside}/app && PYTHONPATH={inside}/site python3 -m"
            tested = subprocess.run([*ssh, f"{here} pytest -q tests"], capture_output=True, text=True, check=False)
            served = subprocess.run([*ssh, f"{here} classifier"], capture_output=True, text=True, check=False)
        finally:
            shutil.rmtree(home, ignore_errors=True)
    assert "7 passed" in tested.stdout, tested.stdout + tested.stderr
    assert served.returncode == 0, served.stderr
    assert "seen: 7" in served.stderr and "stopped after 5 pictures" in served.stderr
