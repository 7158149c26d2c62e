"""ONNX and the page in the browser: the same answers, the same images, and no request elsewhere."""

import json
import os
import shutil
import subprocess
import threading
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models import model_around
from pocketddpm.build import build_schedule
from pocketddpm.config import ScheduleConfig
from pocketddpm.convert import web as to_web
from pocketddpm.convert.onnx import facts, write_onnx
from pocketddpm.convert.web import PAGE, RUNTIME, SHA256, find_runtime, serve, write_web
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.grid import make_grid
from pocketddpm.diffusion.prediction import PREDICTIONS
from pocketddpm.diffusion.schedule import Schedule, zero_terminal_snr
from pocketddpm.errors import ConfigError, DataError
from pocketddpm.noise import Role, normal
from test_diffusers_format import a_model

JAVASCRIPT = Path(to_web.__file__).parent / "page" / "sampler.js"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMALL = {"widths": (8, 16), "head_width": 8, "groups": 4}


# The sampler in JavaScript, without a browser ----------------------------------------------------


@pytest.fixture(scope="module")
def javascript():
    """Run JavaScript with the sampler in `s`; return the one line that it prints, of JSON."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs Node.js: install node")
    program = f"""const s = require({json.dumps(str(JAVASCRIPT))});
        let hung;
        require("readline").createInterface({{ input: process.stdin }}).on("line", (line) => {{
          clearTimeout(hung);
          hung = setTimeout(() => process.exit(1), 300000).unref();
          eval(JSON.parse(line));
        }});"""
    process = subprocess.Popen(
        [node, "-e", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def run(code: str):
        process.stdin.write(json.dumps(code) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    with process:  # ends with its input
        yield run


def test_the_generator_gives_the_published_answers(javascript):
    words = javascript(
        "const f = 0xffffffff; console.log(JSON.stringify([s.philox([0,0,0,0],[0,0]),"
        "s.philox([f,f,f,f],[f,f]),"
        "s.philox([0x243f6a88,0x85a308d3,0x13198a2e,0x03707344],[0xa4093822,0x299f31d0])]))"
    )
    assert [[f"{w:08x}" for w in row] for row in words] == [
        ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"],
        ["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"],
        ["d16cfe09", "94fdcceb", "5001e420", "24126ea1"],
    ]


@pytest.mark.parametrize(("role", "step"), [(Role.START, 0), (Role.STEP, 0), (Role.STEP, 3)])
@pytest.mark.parametrize(("seed", "index"), [(0, 0), (7, 3), (2**32 - 1, 99)])
def test_the_noise_is_pythons(javascript, seed, index, role, step):
    what = f"{seed},{index},786,{role.value},{step}"
    got = javascript(f"console.log(JSON.stringify([...s.normal({what})]))")
    wanted = normal(seed, role, torch.tensor([index]), (786,), step)[0].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spacing", ["trailing", "karras", "jumps"])
def test_the_times_are_pythons(javascript, spacing):
    pairs = [(1000, n) for n in (1, 2, 3, 7, 20, 333, 1000)] + [(5, 2), (10, 4), (1, 1)]
    for T, steps in pairs if spacing == "trailing" else [*pairs[:5], (10, 4)]:
        schedule = build_schedule(ScheduleConfig("linear", T))
        told = json.dumps({"alpha_bar": schedule.alpha_bar.tolist(), "spacing": spacing})
        got = javascript(f"console.log(JSON.stringify(s.makeGrid({told},{steps})))")
        grid = make_grid(schedule, steps, spacing)
        np.testing.assert_allclose([t for t, _ in got], grid.t, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose([bar for _, bar in got], grid.alpha_bar, rtol=1e-9)


class Toy(nn.Module):
    """A network that JavaScript can repeat: tanh(x + y / 4) cos(t / 500)."""

    def forward(self, x, t, y=None):
        label = torch.full_like(t, 10) if y is None else y.float()
        return torch.tanh(x + label[:, None, None, None] / 4) * (t[:, None, None, None] / 500).cos()


SAMPLERS = [("ddim", "trailing"), ("dpmpp", "karras"), ("consistency", "jumps")]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize(("sampler", "spacing"), SAMPLERS)
def test_the_sampler_is_pythons(javascript, sampler, spacing, prediction, clip, guidance):
    mean = torch.linspace(-0.5, 0.5, 16).view(1, 4, 4)
    model = model_around(
        Toy(),
        prediction=prediction,
        scaling=Scaling(0.0, 2.0, mean),
        schedule="linear",
        sigma_data=0.35,
        sampler=sampler,
        spacing=spacing,
        clip=clip,
    )
    labels = [3, 0, 9]
    wanted = model.sample(labels=labels, steps=8, guidance=guidance, seed=5).images
    told = json.dumps(facts(model))
    assert (facts(model)["sampler"], facts(model)["spacing"]) == (sampler, spacing)
    got = javascript(
        f"""const facts = {told};
        const ask = async (x, t, y) => x.map((v, j) =>
          Math.tanh(v + (y ? y[Math.floor(j / 16)] : 10) / 4) * Math.cos(t / 500));
        const settings = {{ seed: 5, labels: {labels}, count: 3, steps: 8, guidance: {guidance} }};
        s.sample(facts, ask, async () => true, settings).then(
          (x) => console.log(JSON.stringify([...s.toBytes(facts, x)])));"""
    )
    difference = np.abs(np.array(got).reshape(wanted.shape) - wanted.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.05
    assert wanted.std() > 10


def test_zero_terminal_snr_and_one_step(javascript):
    for steps in (1, 6):
        model = model_around(Toy(), prediction="v", sampler="dpmpp", spacing="karras")
        ab = zero_terminal_snr(model.schedule.alpha_bar)
        model = replace(model, schedule=Schedule(ab))
        told = facts(model)
        assert told["spacing"] == "trailing"
        wanted = model.sample(labels=[1], steps=steps, spacing="trailing").images
        got = javascript(
            f"""const ask = async (x, t, y) => x.map((v, j) =>
              Math.tanh(v + y[0] / 4) * Math.cos(t / 500));
            s.sample({json.dumps(told)}, ask, async () => true,
              {{ seed: 0, labels: [1], count: 1, steps: {steps}, guidance: 1 }}).then(
              (x) => console.log(JSON.stringify([...s.toBytes({json.dumps(told)}, x)])));"""
        )
        assert np.abs(np.array(got).reshape(wanted.shape) - wanted.astype(int)).max() <= 1


# ONNX --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "size"),
    [
        ("unet", (16, 8)),
        ("lean", (16, 8)),
        ("small-unet", (8, 8)),
        ("unet", (7, 9)),
        ("lean", (7, 9)),
    ],
)
def test_onnx_gives_torchs_answers_for_any_batch(tmp_path, network, size):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    classes = 0 if network == "small-unet" else 3
    sizes = {
        "unet": SMALL,
        "lean": {"patch": 1, "widths": (8, 16), "blocks": (1, 1), "head_width": 8},
        "small-unet": {},
    }[network]
    shape = (1, *size)
    model = a_model(sizes, network=network, classes=classes, shape=shape)
    assert write_onnx(model, tmp_path / "m.onnx") < 1e-4
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    assert [i.name for i in session.get_inputs()] == ["x", "t", "y"][: 3 if classes else 2]
    for batch in (1, 3, 7):
        x = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))
        t, y = torch.linspace(1, 1000, batch), torch.arange(batch) % 4
        inputs = {"x": x.numpy(), "t": t.numpy()} | ({"y": y.numpy()} if classes else {})
        with torch.no_grad():
            wanted = model.network(x, t, y if classes else None).numpy()
        np.testing.assert_allclose(session.run(None, inputs)[0], wanted, rtol=1e-4, atol=1e-5)
    (prop,) = onnx.load(tmp_path / "m.onnx").metadata_props
    assert prop.key == "pocketddpm"
    assert json.loads(prop.value)["alpha_bar"] == model.schedule.alpha_bar.tolist()


def test_a_network_that_onnx_cannot_hold_is_refused(tmp_path):
    class Reads(nn.Module):
        def forward(self, x, t, y=None):
            return x if t[0] > 5 else -x

    with pytest.raises(ConfigError, match=r"'unet'.*ONNX"):
        write_onnx(model_around(Reads()), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_an_answer_that_differs_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("pocketddpm.convert.onnx._export", lambda model, path: path.touch())
    monkeypatch.setattr("pocketddpm.convert.onnx._difference", lambda *_: 0.01)
    pytest.importorskip("onnx")
    with pytest.raises(ConfigError, match=r"1\.0e-02.*1e-04"):
        write_onnx(model_around(Toy()), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


# The folder --------------------------------------------------------------------------------------


def test_without_a_runtime_one_line_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=rf"POCKETDDPM_OFFLINE.*npm pack {RUNTIME}"):
        find_runtime()
    with pytest.raises(DataError, match=next(iter(SHA256))):
        find_runtime(tmp_path)
    for name in SHA256:
        (tmp_path / name).write_text("something else")
    with pytest.raises(DataError, match=rf"ort.*{RUNTIME}"):
        find_runtime(tmp_path)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(DataError, match="npm"):
        find_runtime()
    with pytest.raises(ConfigError, match=" 2 channels"):
        write_web(model_around(Toy(), (2, 4, 4)), tmp_path / "out")


def test_the_page_asks_nobody_else():
    page = JAVASCRIPT.parent
    assert sorted(p.name for p in page.iterdir()) == sorted(PAGE)
    for path in page.iterdir():
        text = path.read_text()
        assert "http:" not in text and "https:" not in text and "//cdn" not in text
    assert "default-src 'none'" in (page / "index.html").read_text()


def test_serve_sends_the_folder_to_this_machine_only(tmp_path, monkeypatch):
    servers = []

    class Kept(ThreadingHTTPServer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            servers.append(self)

    monkeypatch.setattr(to_web, "ThreadingHTTPServer", Kept)
    (tmp_path / "a.wasm").write_bytes(b"x")
    urls, told = [], threading.Event()
    thread = threading.Thread(
        target=serve, args=(tmp_path, 0, lambda url: (urls.append(url), told.set()))
    )
    thread.start()
    try:
        assert told.wait(10)
        assert urls[0].startswith("http://127.0.0.1:")
        with urlopen(urls[0] + "a.wasm") as answer:
            assert answer.headers["Content-Type"] == "application/wasm"
        with pytest.raises(ConfigError, match="--port"):
            serve(tmp_path, servers[0].server_address[1], print)
    finally:
        servers[0].shutdown()
        thread.join()


# The page in a real browser ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A page of a small model with labels, served; (url, model)."""
    pytest.importorskip("onnx")
    folder = os.environ.get("POCKETDDPM_RUNTIME")
    if not folder:
        pytest.skip(f"needs {RUNTIME}: set POCKETDDPM_RUNTIME to a folder that holds its dist/")
    out = tmp_path_factory.mktemp("site")
    model = a_model(SMALL, classes=3, shape=(1, 16, 16), steps=10)
    write_web(model, out, Path(folder))
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *a: to_web._Handler(*a, directory=str(out))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", model
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs a browser: install Debian's package chromium")
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, site):
    """A loaded page of a phone's width that records every request and complaint."""
    context = browser.new_context(viewport={"width": 375, "height": 740})
    page = context.new_page()
    page.requests, page.complaints = [], []
    page.on("request", lambda r: page.requests.append(r.url))
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: page.complaints.append(str(e)))
    page.goto(site[0])
    page.locator("#draw:enabled").wait_for(timeout=60_000)
    yield page
    assert not page.complaints
    assert all(url.startswith((site[0], "data:", "blob:")) for url in page.requests)
    context.close()


def pixels(page, width=16):
    """Return what the canvases show, int [n,H,W]."""
    code = """() => [...document.querySelectorAll('#grid canvas')].map(c => [...c.getContext('2d')
        .getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0))"""
    return np.array(page.evaluate(code)).reshape(-1, width, width)


def finished(page):
    page.locator("#draw:enabled").wait_for(timeout=60_000)
    return page.locator("#status").inner_text()


def test_the_page_draws_pythons_images(page, site):
    page.fill("#count", "4")
    page.fill("#steps", "7")
    page.fill("#guidance", "2")
    page.fill("#seed", "11")
    page.click("#draw")
    told = finished(page)
    assert "4 images in" in told and "images per second (7 steps, seed 11, one thread)" in told
    samples = site[1].sample(4, labels=[0, 1, 2], steps=7, guidance=2.0, seed=11)
    difference = np.abs(pixels(page) - samples.images[:, 0].astype(int))
    assert difference.max() <= 1
    assert samples.images.std() > 5
    names = page.locator("#grid canvas").evaluate_all("all => all.map(c => c.ariaLabel)")
    assert names == page.locator("#grid figcaption").all_inner_texts() == ["a", "b", "c", "a"]


def test_the_page_by_keyboard(page):
    page.fill("#count", "2")
    page.fill("#steps", "3")
    page.locator("#classes input").first.focus()
    page.keyboard.press("Space")  # not "a"
    page.locator("#seed").focus()
    page.keyboard.press("Enter")
    assert "2 images" in finished(page)
    names = page.locator("#grid canvas").evaluate_all("all => all.map(c => c.ariaLabel)")
    assert names == ["b", "c"]
    before = pixels(page)
    page.locator("#again").focus()
    page.keyboard.press("Enter")
    assert "seed 1" in finished(page)
    assert (pixels(page) != before).any()
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "seed-1.png"
    with Image.open(download.value.path()) as saved:
        # Two images side by side, enlarged four times, with their names below.
        assert saved.size == (2 * (16 * 4 + 4) + 4, 16 * 4 + 15 + 2 * 4)
        below = np.asarray(saved.convert("L"))[4 + 64 : -4]
    assert below.min() < 90 and below.max() == 192


def test_the_page_stops_and_refuses_bad_values(page):
    page.fill("#count", "50")
    page.fill("#steps", "1000")
    page.click("#draw")
    page.click("#stop")
    assert finished(page) == "Stopped."
    page.fill("#steps", "0")
    page.click("#draw")
    assert page.locator("#steps").evaluate("e => e.validity.rangeUnderflow")
    assert page.locator("#status").inner_text() == "Stopped."
    page.fill("#steps", "5")
    for box in page.locator("#classes input").all():
        box.uncheck(force=True)
    page.click("#draw")
    assert "Choose at least one class" in page.locator("#status").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_light_and_dark(page, scheme):
    page.emulate_media(color_scheme=scheme)
    code = "() => document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(code)
    shade = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    (first, *_) = [int(v) for v in shade.removeprefix("rgb(").removesuffix(")").split(",")]
    assert first > 200 if scheme == "light" else first < 60
