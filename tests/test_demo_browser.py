"""The demo's page in a real browser, served by the real command; nothing may leave this machine."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from PIL import Image

from pocketddpm.commands.main import main
from pocketddpm.demo.model_list import ModelList
from pocketddpm.demo.server import serving
from pocketddpm.errors import ConfigError

pytest.importorskip("gradio", reason="needs Gradio: pip install 'pocketddpm[demo]'")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright, of the test extra"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
WAIT = 120_000  # ms; a busy machine is no failure
# Ten frames a second: without a GPU, the editors of images would draw on all of a core.
SELDOM = """{
    const frame = window.requestAnimationFrame.bind(window);
    window.requestAnimationFrame = (draw) => setTimeout(() => frame(draw), 100);
    window.cancelAnimationFrame = clearTimeout;
}"""

# The server, with every address that it connects to or looks up written into a file.
SERVER = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
log = open(sys.argv[1], "a", buffering=1)
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        where = args[1] if event == "socket.connect" else args[0]
        where = where[0] if isinstance(where, tuple) else where
        log.write(json.dumps([event, str(where)]) + "\\n")
sys.addaudithook(hook)
from pocketddpm.commands.main import main
main(sys.argv[2:])
"""
LOCAL = {"127.0.0.1", "localhost", "::1", "0.0.0.0", "None", ""}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Serve a model of a few steps; yield its address and the file of connections."""
    folder = tmp_path_factory.mktemp("demo")
    run, log = folder / "run", folder / "connections"
    train = ["train", "digits", "--net", "widths=8/16,head_width=8,groups=4", "--steps", "30"]
    main(
        [*train, "--batch-size", "16", "--device", "cpu", "--sample-every", "0", "--out", str(run)]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["demo", str(run), "--no-browser", "--device", "cpu", "--port", str(port)]
    with (folder / "output").open("w") as output:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(log), *command],
            stdout=output, stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 120
        while address not in (folder / "output").read_text():
            assert server.poll() is None, (folder / "output").read_text()
            assert time.monotonic() < deadline, (folder / "output").read_text()
            time.sleep(0.1)
        yield SimpleNamespace(address=address, log=log, output=folder / "output")
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 130
        assert not list(folder.glob("pocketddpm-demo-*")), "what it drew is left behind"


@pytest.fixture(scope="module")
def browser(site):
    """Start one Chromium; all pages share its cache, which makes the later ones quick to load."""
    with playwright.sync_playwright() as tool:
        chromium = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = chromium.new_context(reduced_motion="reduce")
        context.add_init_script(SELDOM)
        yield context
        chromium.close()


class Person:
    """A person with a page of their own; every request and every error of the page is noted."""

    def __init__(self, browser, site, **media) -> None:
        self.page = browser.new_page()
        self.page.emulate_media(**media)
        self.page.set_default_timeout(WAIT)
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(site.address)
        self.page.wait_for_selector("#draw-start")

    def tab(self, name):
        self.page.get_by_role("tab", name=name, exact=True).click()

    def set(self, label, value):
        field = self.page.get_by_label(label, exact=True).locator("visible=true").first
        field.fill(str(value))
        field.blur()

    def choose(self, label, value):
        self.page.get_by_label(label, exact=True).locator("visible=true").first.click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def wait_for(self, selector, text):
        self.page.wait_for_function(
            "([s, t]) => document.querySelector(s)?.innerText.includes(t)", arg=[selector, text]
        )

    def value(self, label):
        field = self.page.get_by_label(label, exact=True).locator("visible=true").first
        return field.input_value()

    def text(self, selector):
        return self.page.inner_text(selector)

    def picture(self, selector):
        return self.page.get_attribute(f"{selector} img", "src")

    def download(self, selector):
        self.page.wait_for_selector(f"{selector}:not([disabled])")
        with self.page.expect_download() as found:
            self.page.click(selector)
        return found.value.suggested_filename, Path(found.value.path()).read_bytes()


@pytest.fixture(scope="module")
def person(browser, site):
    """The first person at the page."""
    return Person(browser, site)


def foreign(requests, site):
    here = urlsplit(site.address).netloc
    return [
        url
        for url in requests
        if urlsplit(url).scheme not in ("data", "blob", "about") and urlsplit(url).netloc != here
    ]


def test_draws_scrubs_and_downloads(person):
    page = person.page
    page.get_by_label("3", exact=True).locator("visible=true").first.check()
    person.set("number input for Images", 4)
    person.set("number input for Steps", 6)
    page.click("#draw-start")
    name, png = person.download("#draw-png")
    assert name == "pocketddpm-run-ddim-6-seed0.png"
    assert Image.open(io.BytesIO(png)).format == "PNG"
    assert "step 6 of 6" in person.text("#draw-status")
    assert page.inner_text("#draw-x .names").split() == ["3"] * 4
    last = person.picture("#draw-x")
    gif = Image.open(io.BytesIO(person.download("#draw-gif")[1]))
    assert (gif.format, gif.n_frames) == ("GIF", 7)
    with np.load(io.BytesIO(person.download("#draw-npz")[1])) as arrays:
        assert arrays["images"].shape == (4, 8, 8)
        assert arrays["labels"].tolist() == [3] * 4
    # Back by one step, from the keyboard.
    page.locator("#draw-frame input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    person.wait_for("#draw-status", "step 5 of 6")
    assert person.picture("#draw-x") != last


def test_stops(person):
    page = person.page
    person.set("number input for Images", 40)
    person.set("number input for Steps", 250)
    # Clicked within the page: on a busy machine a click from here comes when all is drawn.
    page.evaluate(
        """() => new MutationObserver((changes, watcher) => {
            if (document.querySelector("#draw-status").innerText.includes("of 250")) {
                watcher.disconnect();
                document.querySelector("#draw-stop").click();
            }
        }).observe(document.body, {childList: true, subtree: true, characterData: true})"""
    )
    page.click("#draw-start")
    person.wait_for("#draw-status", "of 250")
    page.wait_for_selector("#draw-png:not([disabled])")
    stopped = person.text("#draw-status")
    assert "of 250" in stopped
    assert "Error" not in stopped
    assert "step 250" not in stopped
    page.wait_for_timeout(500)
    assert f"step {person.value('number input for Step')} of 250" in stopped
    page.wait_for_timeout(500)
    assert person.text("#draw-status") == stopped
    # What was drawn until then is there to keep.
    assert Image.open(io.BytesIO(person.download("#draw-png")[1])).format == "PNG"


def test_bad_values_are_explained(person):
    page = person.page
    person.set("number input for Images", 1)
    person.set("number input for Steps", 2)
    for wrong in ("", "-1", "2.5", "1e300"):
        person.set("Seed", wrong)
        page.click("#draw-start")
        given = {"": "nothing", "1e300": "1e+300"}.get(wrong, wrong)
        person.wait_for("#draw-status [role=alert]", f"got {given}.")
        assert person.text("#draw-status").startswith("Seed: ")
        assert "starting" not in person.text("#draw-status")
    person.set("Seed", 1)
    page.click("#draw-start")
    person.wait_for("#draw-status", "step 2 of 2")


def test_two_people_at_once(person, browser, site):
    other = Person(browser, site)
    for one, seed in ((person, 11), (other, 12)):
        one.set("number input for Images", 10)
        one.set("number input for Steps", 40)
        one.set("Seed", seed)
    person.page.click("#draw-start")
    other.page.click("#draw-start")
    for one, seed in ((person, 11), (other, 12)):
        one.wait_for("#draw-status", "step 40 of 40")
        assert one.download("#draw-png")[0].endswith(f"seed{seed}.png")
    assert person.picture("#draw-x") != other.picture("#draw-x")
    assert not other.errors
    assert not foreign(other.requests, site)
    other.page.close()


def test_forward_samplers_and_inside(person):
    page = person.page
    person.tab("Forward")
    page.wait_for_selector("#forward-x img")
    before = person.picture("#forward-x")
    person.set("number input for Time t", 900)
    person.wait_for("#forward-x", "t = 900")
    assert person.picture("#forward-x") != before
    assert "the test set of digits" in person.text("#forward-facts")
    person.tab("Samplers")
    page.click("#race-start")
    person.wait_for("#race-status", "4 of 4 samplers")
    assert page.locator("#race-results img").count() == 4
    assert "heun" in person.text("#race-results table")
    person.tab("Inside")
    page.wait_for_selector("#inside-schedule img")
    page.click("#errors-start")
    person.wait_for("#errors-status", "16 of 16 times")
    page.click("#estimates-start")
    page.wait_for_selector("#inside-estimates img")
    page.get_by_label("Seed", exact=True).locator("visible=true").first.fill("")
    page.click("#estimates-start")
    person.wait_for("#estimates-status [role=alert]", "Seed")


def test_edits(person):
    page = person.page
    person.tab("Edit")
    person.set("number input for Steps", 6)
    page.click("#inpaint-start")
    person.wait_for("#inpaint-status [role=alert]", "nothing is marked")
    for image in (1, 0):  # whose classes the test set of digits knows
        person.set("number input for Image", image)
        page.wait_for_function(
            """k => [...document.querySelectorAll("input[aria-label=Class]")]
                .some(e => e.offsetParent && e.value == k)""",
            arg=str(image),
        )
    brush(page, "#edit-mask")
    page.click("#inpaint-start")
    page.wait_for_selector("#inpaint-png:not([disabled])")
    assert "t = 0" in person.text("#inpaint-status")
    taken = int(re.search(r"step (\d+) of \1 ", person.text("#inpaint-status"))[1])
    assert taken == int(person.value("number input for Step"))
    assert page.inner_text("#inpaint-x .names").split() == ["0"] * 8
    person.choose("Part", "left half")
    before = person.picture("#inpaint-x")
    page.click("#inpaint-start")
    changed = "before => document.querySelector('#inpaint-x img').src != before"
    page.wait_for_function(changed, arg=before)
    person.wait_for("#inpaint-status", "images/s")
    person.tab("From seed to seed")
    page.click("#between-start")
    page.wait_for_selector("#between-gif:not([disabled])")
    person.tab("Finish my drawing")
    page.click("#sketch-start")
    person.wait_for("#sketch-status [role=alert]", "sheet is empty")
    brush(page, "#edit-sketch")
    page.click("#sketch-start")
    page.wait_for_selector("#sketch-png:not([disabled])")
    assert "step 12 of 12" in person.text("#sketch-status")
    person.tab("Restore")
    page.wait_for_selector("#restore-known img")
    known = person.picture("#restore-known")
    person.choose("What was lost", "blur")
    changed = "before => document.querySelector('#restore-known img').src != before"
    page.wait_for_function(changed, arg=known)
    page.click("#restore-start")
    page.wait_for_selector("#restore-png:not([disabled])")
    assert "t = 0" in person.text("#restore-status")


def brush(page, selector):
    """Draw a stroke across the middle of an editor."""
    canvas = page.locator(f"{selector} canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)  # the editor fits itself into its place
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 50, y)
    page.mouse.down()
    page.mouse.move(x + 50, y, steps=6)
    page.mouse.move(x, y + 30, steps=6)
    page.mouse.up()
    page.wait_for_timeout(500)  # it tells the server a moment later


def test_a_phone_in_the_dark(browser, site):
    phone = Person(browser, site, color_scheme="dark")
    phone.page.set_viewport_size({"width": 390, "height": 844})
    page = phone.page
    phone.set("number input for Steps", 4)
    page.click("#draw-start")
    page.wait_for_selector("#draw-x img")
    for selector in ("#draw-start", "#draw-stop", "#draw-x img"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844, selector
    for name in ("Draw", "Forward", "Samplers", "Edit", "Inside"):
        phone.tab(name)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 60, ground
    page.click("#dark")
    page.wait_for_function(
        "getComputedStyle(document.body).backgroundColor == 'rgb(255, 255, 255)'"
    )
    assert not foreign(phone.requests, site)
    page.close()


def test_nothing_left_this_machine(person, site):
    """Runs last: the page's requests, and what the server connected to, in all tests above."""
    assert len(person.requests) > 20
    assert not foreign(person.requests, site)
    assert not person.errors
    connected = [json.loads(line) for line in site.log.read_text().splitlines()]
    assert connected, "the hook saw nothing, not even the server's own check of its address"
    assert not [entry for entry in connected if entry[1] not in LOCAL]
    assert "Traceback" not in site.output.read_text()


def test_a_port_that_is_taken_is_said_in_a_line(site):
    port = urlsplit(site.address).port
    models = ModelList([Path("mnist-fast")], torch.device("cpu"))
    with pytest.raises(ConfigError, match=rf"{port}.*--port") as refused, serving(models, port):
        pass
    assert "\n" not in str(refused.value)


def test_the_page_refuses_other_hosts_and_names_its_policy(site):
    with urlopen(site.address) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    request = Request(site.address, headers={"Host": "evil.example"})
    with pytest.raises(Exception, match="400"):
        urlopen(request)
