"""The web app in a real browser: built from a new app, fed by a fake camera, files and bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from edgevit.bundle.golden import golden_pictures, read_golden
from edgevit.data.digits import digits_arrays
from edgevit.templates.create import new_app
from tests.apps.pages import browser, page, served
from tests.apps.toolboxes import node_modules, npm
from tests.conftest import Exported, cli_json
from tests.devices.services import ROOT

pytestmark = pytest.mark.system

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ALLOWED = "--use-fake-ui-for-media-stream"


@pytest.fixture(scope="session")
def built(exported: Exported, shared_folder: Path) -> Any:
    """A built web app around a bundle, made once; a test must not change it."""

    def get(backend: str) -> Path:
        app = shared_folder / "web-apps" / backend
        with FileLock(str(shared_folder / f"web-app-{backend}.lock")):
            if not (app / "dist/offline.js").is_file():
                app.parent.mkdir(exist_ok=True)
                new_app("web", exported("tinyvit_digits", backend), app)
                (app / "node_modules").symlink_to(node_modules(shared_folder), target_is_directory=True)
                npm("test", cwd=app)
                npm("run", "build", cwd=app)
        return app

    return get


@pytest.fixture
def chrome() -> Iterator[Browser]:
    with browser(ALLOWED) as found:
        yield found


def ready(found: Page) -> None:
    from playwright.sync_api import expect

    expect(found.locator("#state")).to_have_text("Ready", timeout=60_000)


def answer(found: Page, path: Path) -> list[tuple[int, float]]:
    """Choose a file and read the answer."""
    found.evaluate("document.getElementById('results').replaceChildren()")
    found.set_input_files("#file", str(path))
    found.locator("#results li").first.wait_for(timeout=20_000)
    rows = found.eval_on_selector_all("#results li", "all => all.map((one) => [one.dataset.index, one.dataset.score])")
    return [(int(index), float(score)) for index, score in rows]


@pytest.mark.parametrize(("backend", "isolated"), [("onnx", True), ("onnx", False), ("litert", False)])
def test_golden_vectors_and_predict_agree_with_the_page(
    backend: str, isolated: bool, built: Any, chrome: Browser, tmp_path: Path
) -> None:
    app = built(backend)
    bundle = app / "model"
    outputs = read_golden(bundle).outputs
    digits = [tmp_path / name for name in ("0.png", "1.png", "2.jpg", "3.webp")]
    for path, pixels in zip(digits, digits_arrays("test")[0], strict=False):
        Image.fromarray(pixels).resize((200, 150)).save(path, quality=95)
    with served(app / "dist", isolated=isolated) as url, page(chrome, url) as found:
        ready(found)
        assert found.evaluate("crossOriginIsolated") == isolated
        assert "tinyvit_digits, fp32, in" in found.inner_text("#about")
        for picture, wanted in zip(golden_pictures(bundle), outputs, strict=True):
            best = answer(found, picture)
            assert [index for index, _ in best] == np.argsort(-wanted, kind="stable")[:5].tolist()
            assert all(abs(score - wanted[index]) < 1e-3 for index, score in best)
        told: Any = cli_json("predict", bundle, *digits)
        for path, one in zip(digits, told["predictions"], strict=True):
            assert [index for index, _ in answer(found, path)] == [c["index"] for c in one["classes"]]
            label = one["classes"][0]["label"]
            assert found.inner_text("#results li:first-child span:first-child") == label
            assert found.inner_text("#spoken").startswith(f"{label}, ")


def test_the_camera_is_classified_live(built: Any, tmp_path: Path) -> None:
    """A film of one digit in place of Chromium's test pattern: the label is `edgevit predict`'s."""
    from playwright.sync_api import expect

    still, film = tmp_path / "still.jpg", tmp_path / "film.mjpeg"
    Image.fromarray(digits_arrays("test")[0][0]).resize((640, 480)).save(still, quality=95)
    film.write_bytes(still.read_bytes() * 30)
    told: Any = cli_json("predict", built("litert") / "model", still)
    label = told["predictions"][0]["classes"][0]["label"]
    shown = f"--use-file-for-fake-video-capture={film}"
    with (
        browser(ALLOWED, shown) as chrome,
        served(built("litert") / "dist") as url,
        page(chrome, url, permissions=["camera"]) as found,
    ):
        ready(found)
        found.keyboard.press("Tab")
        found.keyboard.press("Tab")
        assert found.evaluate("document.activeElement.id") == "camera", "the keyboard reaches it"
        found.keyboard.press("Enter")
        expect(found.locator("#results li")).to_have_count(5, timeout=20_000)
        expect(found.locator("#rate")).not_to_have_text("–", timeout=20_000)
        expect(found.locator("#results li").first).to_contain_text(label, timeout=20_000)
        assert float(found.inner_text("#rate")) > 0
        assert found.get_attribute("#camera", "aria-pressed") == "true"
        found.click("#camera")
        expect(found.locator("#camera")).to_have_text("Start camera")
        assert found.is_hidden("#video")


def test_it_can_be_installed_and_opens_without_a_network(built: Any, chrome: Browser, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(built("litert") / "dist", site)
    picture = golden_pictures(built("litert") / "model")[0]
    context = chrome.new_context()
    with served(site) as url:
        first = context.new_page()
        first.goto(url)
        ready(first)
        first.evaluate("navigator.serviceWorker.ready.then(() => undefined)")
        before = answer(first, picture)
        devtools = context.new_cdp_session(first)
        assert devtools.send("Page.getAppManifest")["errors"] == []
        found = {one["errorId"] for one in devtools.send("Page.getInstallabilityErrors")["installabilityErrors"]}
        assert found <= {"in-incognito"}, "a test's profile is one; nothing else keeps it from being installed"
        listed = first.evaluate(
            "caches.keys().then(async (names) => (await (await caches.open(names[0])).keys()).map((one) => one.url))"
        )
        built_files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
        kept = {one.removeprefix(url) or "index.html" for one in listed}
        assert kept == built_files - {"offline.js"}
    second = context.new_page()  # the server is gone
    second.goto(url)
    ready(second)
    assert answer(second, picture) == before
    context.close()


def complaint(found: Page) -> str:
    found.locator("#message").wait_for(state="visible", timeout=20_000)
    assert found.get_attribute("#message", "role") == "alert"
    return found.inner_text("#message")


def test_bad_pictures_are_explained_and_the_app_goes_on(built: Any, chrome: Browser, tmp_path: Path) -> None:
    text, cut, huge = tmp_path / "notes.jpg", tmp_path / "cut.png", tmp_path / "huge.png"
    text.write_text("this is no picture")
    good = golden_pictures(built("litert") / "model")[0]
    cut.write_bytes(good.read_bytes()[:200])
    Image.new("L", (10_000, 5_000)).save(huge)
    with served(built("litert") / "dist") as url, page(chrome, url) as found:
        ready(found)
        for path, says in (
            (text, "notes.jpg is not a picture that this browser can read"),
            (huge, "huge.png has 50 megapixels, more than 40"),
        ):
            found.set_input_files("#file", str(path))
            found.wait_for_function(f"document.getElementById('message').textContent.includes({json.dumps(says)})")
            assert says in complaint(found)
        found.set_input_files("#file", str(cut))
        found.wait_for_function("document.getElementById('message').textContent.includes('cut.png')")
        assert len(answer(found, good)) == 5
        assert found.is_hidden("#message")


@pytest.mark.parametrize(
    ("switches", "prepare", "says"),
    [
        (["--deny-permission-prompts"], "", "The camera was not allowed"),
        ([ALLOWED, "--use-fake-device-for-media-stream=device-count=0"], "", "No camera was found"),
        ([ALLOWED], "delete Navigator.prototype.mediaDevices", "HTTPS and on localhost only"),
    ],
    ids=["refused", "none", "no https"],
)
def test_a_camera_that_does_not_start(switches: list[str], prepare: str, says: str, built: Any, tmp_path: Path) -> None:
    good = golden_pictures(built("litert") / "model")[0]
    with browser(*switches) as chrome, served(built("litert") / "dist") as url, page(chrome, url) as found:
        ready(found)
        if prepare:
            found.evaluate(prepare)
        found.click("#camera")
        assert says in complaint(found)
        assert len(answer(found, good)) == 5


def test_a_bundle_that_is_not_its_manifest_s_is_refused(built: Any, chrome: Browser, tmp_path: Path) -> None:
    def broken(name: str, change: Any) -> str:
        site = tmp_path / name
        shutil.copytree(built("litert") / "dist", site)
        change(site)
        with served(site) as url, page(chrome, url) as found:
            return complaint(found) if found.is_disabled("#choose") else ""

    def flip(site: Path) -> None:
        (model,) = (site / "assets").glob("*.tflite")
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)

    def change(**fields: Any) -> Any:
        def rewrite(site: Path) -> None:
            (path,) = (site / "assets").glob("manifest-*.json")
            manifest = json.loads(path.read_text())
            for key, value in fields.items():
                manifest[key] = {**manifest[key], **value} if isinstance(value, dict) else value
            path.write_text(json.dumps(manifest))

        return rewrite

    assert "is not the one its manifest names" in broken("flipped", flip)
    assert "Core ML runs on Apple's systems only" in broken("coreml", change(target={"backend": "coreml"}))
    assert "ExecuTorch does not run in a browser" in broken("pte", change(target={"backend": "executorch"}))
    assert "features, not classes" in broken("features", change(output={"kind": "features"}))
    assert "manifests of version 1; this one has 2" in broken("newer", change(schema_version=2))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_phones_and_desktops(width: int, scheme: str, built: Any, chrome: Browser) -> None:
    """Nothing runs over the edge, and text stands out from its ground."""
    view = {"width": width, "height": 844}
    with served(built("litert") / "dist") as url, page(chrome, url, viewport=view, color_scheme=scheme) as found:
        ready(found)
        answer(found, golden_pictures(built("litert") / "model")[0])
        assert found.evaluate("document.documentElement.scrollWidth") <= width
        for selector in ("h1", "#state", "#results li span", "#camera", "#choose", "#about", "dt"):
            assert found.evaluate(_CONTRAST, selector) >= 4.5, selector
        small = found.eval_on_selector_all(
            "button:not([hidden])", "all => all.filter((one) => one.offsetHeight < 44).length"
        )
        assert small == 0
        folder = os.environ.get("EDGEVIT_SCREENSHOTS")
        if folder:
            found.screenshot(path=str(Path(folder) / f"web-{width}-{scheme}.png"), full_page=True)


# WCAG's contrast ratio of an element's text and the nearest ground below it.
_CONTRAST = """(selector) => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const one = document.querySelector(selector);
  let ground = one;
  while (ground.parentElement && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
  const [a, b] = [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor].map(parse).map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""


def hidden_colours() -> np.ndarray[Any, Any]:
    """RGBA with colours of its own behind every degree of transparency."""
    rgba = np.zeros((64, 48, 4), np.uint8)
    rgba[..., 0], rgba[..., 1], rgba[..., 2] = 200, np.arange(64)[:, None] * 4, np.arange(48)[None] * 5
    rgba[..., 3] = np.arange(48)[None] * 5
    return rgba


def test_files_are_decoded_by_the_contract(tmp_path: Path, shared_folder: Path) -> None:
    """Upright, alpha dropped with what is behind it kept, 16 bits scaled and not clipped."""
    rolldown = node_modules(shared_folder) / ".bin/rolldown"
    source = str(ROOT / "apps/web/src/pictures.ts")
    subprocess.run([str(rolldown), source, "--file", str(tmp_path / "pictures.mjs"), "--format", "esm"], check=True)
    (tmp_path / "index.html").write_text("<!doctype html><input type=file id=file>")
    rgba, grey = hidden_colours(), (np.arange(64 * 48).reshape(64, 48) * 21).astype(np.uint16)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    Image.fromarray(grey).save(tmp_path / "grey16.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.kron(np.array([[250, 20, 120], [60, 180, 5]], np.uint8), np.ones((16, 16), np.uint8))
    Image.fromarray(turned).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    expected = {
        "alpha.png": (rgba[..., :3], 0),
        "grey16.png": (np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, 2), 1),
        "turned.jpg": (np.repeat(np.rot90(turned, -1)[..., None], 3, 2), 12),
    }
    script = """async () => {
        const { readFile } = await import("/pictures.mjs");
        const file = document.getElementById("file").files[0];
        const { rgba, width, height } = await readFile(file, URL.createObjectURL(file));
        return { pixels: Array.from(new Uint8Array(rgba)), width, height };
    }"""
    with (
        served(tmp_path) as address,
        browser("--enable-unsafe-swiftshader", "--use-angle=swiftshader") as chrome,
        page(chrome, address) as found,
    ):
        for name, (pixels, most) in expected.items():
            found.locator("#file").set_input_files(tmp_path / name)
            said = found.evaluate(script)
            assert (said["height"], said["width"]) == pixels.shape[:2], name
            got = np.array(said["pixels"], np.uint8).reshape(*pixels.shape[:2], 4)[..., :3]
            assert np.abs(got.astype(int) - pixels).max() <= most, name
