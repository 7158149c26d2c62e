"""Screenshots of the demo for the docs: serve a model, work through the tabs, photograph each.

    python scripts/demo_pictures.py runs/mnist

Needs the extra 'demo', playwright, and Chromium (apt-get install chromium).
"""

import argparse
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pocketddpm.demo.model_list import ModelList
from pocketddpm.demo.server import serving
from pocketddpm.output import replacing

OUT = Path(__file__).parent.parent / "docs" / "pictures"
WAIT = 300_000  # ms


def wait_for(page: Any, selector: str, text: str) -> None:
    """Wait until an element's text contains `text`."""
    script = "([s, t]) => document.querySelector(s)?.innerText.includes(t)"
    page.wait_for_function(script, arg=[selector, text], timeout=WAIT)


def fill(page: Any, label: str, value: int) -> None:
    """Type a value into the visible field of that label."""
    field = page.get_by_label(label, exact=True).locator("visible=true").first
    field.fill(str(value))
    field.blur()


def draw(page: Any) -> None:
    """Draw, then go back to where the images form."""
    page.click("#draw-start")
    wait_for(page, "#draw-status", "images/s")
    page.wait_for_selector("#draw-png:not([disabled])", timeout=WAIT)
    frame = page.locator("#draw-frame input[type=range]")
    frame.focus()
    for _ in range(7):
        page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(1500)


def forward(page: Any) -> None:
    """Move t."""
    page.wait_for_selector("#forward-x img", timeout=WAIT)
    fill(page, "number input for Time t", 550)
    wait_for(page, "#forward-x", "t = 550")


def race(page: Any) -> None:
    """Compare the samplers."""
    page.click("#race-start")
    wait_for(page, "#race-status", "4 of 4")


def edit(page: Any) -> None:
    """Paint the middle of a digit anew."""
    canvas = page.locator("#edit-mask canvas").first
    page.wait_for_timeout(2500)
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y + 20)
    page.mouse.down()
    for dx, dy in ((40, 20), (40, 45), (-40, 45)):
        page.mouse.move(x + dx, y + dy, steps=8)
    page.mouse.up()
    page.wait_for_timeout(1500)
    page.click("#inpaint-start")
    wait_for(page, "#inpaint-status", "images/s")


def inside(page: Any) -> None:
    """Measure the errors, draw one image."""
    page.click("#errors-start")
    wait_for(page, "#errors-status", "16 of 16")
    page.click("#estimates-start")
    wait_for(page, "#inside-estimates", "t = 0")
    page.wait_for_timeout(1500)


TABS: dict[str, Callable[[Any], None]] = {
    "Draw": draw,
    "Forward": forward,
    "Samplers": race,
    "Edit": edit,
    "Inside": inside,
}


def save(page: Any, name: str) -> None:
    """Write a screenshot of the whole page as a small PNG."""
    from PIL import Image

    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
    with replacing(OUT / f"demo-{name}.png") as temporary:
        shot.quantize(64, dither=Image.Dither.NONE).save(temporary, optimize=True)
    print(f"wrote {OUT / f'demo-{name}.png'}", flush=True)


def main() -> None:
    """Serve, photograph."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--only", choices=[t.split()[0].lower() for t in TABS] + ["phone"])
    arguments = parser.parse_args()
    models = ModelList([arguments.model], torch.device("cpu"))
    with serving(models) as address, sync_playwright() as tool:
        chromium = tool.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for tab, act in TABS.items():
            name = tab.split()[0].lower()
            if arguments.only in (None, name):
                page = chromium.new_page(viewport={"width": 1080, "height": 800})
                page.goto(address, timeout=WAIT)
                page.wait_for_selector("#draw-start", timeout=WAIT)
                page.get_by_role("tab", name=tab, exact=True).click()
                act(page)
                save(page, name)
                page.close()
        if arguments.only in (None, "phone"):
            phone = chromium.new_context(
                viewport={"width": 390, "height": 844}, color_scheme="dark", has_touch=True
            ).new_page()
            phone.goto(address, timeout=WAIT)
            phone.wait_for_selector("#draw-start", timeout=WAIT)
            draw(phone)
            save(phone, "phone")


if __name__ == "__main__":
    main()
