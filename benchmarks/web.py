"""Images per second of `export --to web`: the page itself, in headless Chromium, on one thread.

    python benchmarks/web.py mnist --count 20 --rounds 5

Exports the model, serves the folder on 127.0.0.1, presses Draw and reads what the page says. The
model's own number of steps, no guidance; the first round warms up. Prints JSON.
"""

import argparse
import json
import platform
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from pocketddpm.convert.web import RUNTIME, _Handler, write_web
from pocketddpm.models.model import load


def draw(page: Page, seed: int) -> float:
    """Draw once; return the images per second that the page states."""
    page.fill("#seed", str(seed))
    page.click("#draw")
    page.locator("#draw:enabled").wait_for(timeout=600_000)
    told = page.locator("#status").inner_text()
    found = re.search(r"([\d.]+) images in ([\d.]+) s", told)
    if found is None:
        raise RuntimeError(f"the page says: {told}")
    return float(found[1]) / float(found[2])


def measure(folder: Path, count: int, rounds: int) -> tuple[list[float], int, str]:
    """Return images per second of each round, the steps that the page chose, and the browser."""
    handler = partial(_Handler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with server, sync_playwright() as start:
        browser = start.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator("#draw:enabled").wait_for(timeout=60_000)
        page.fill("#count", str(count))
        rates = [draw(page, seed) for seed in range(rounds + 1)][1:]
        steps, version = int(page.input_value("#steps")), browser.version
        browser.close()
        server.shutdown()
    return rates, steps, version


def main() -> None:
    """Export, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=20, help="images of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", type=Path, help=f"a folder with the files of {RUNTIME}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_web(load(args.model), Path(folder), args.runtime)
        rates, steps, chromium = measure(Path(folder), args.count, args.rounds)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    report = {
        "what": f"images per second in the browser, {args.count} at a time, {steps} steps",
        "commit": commit.stdout.strip(),
        "model": args.model,
        "chromium": chromium,
        "runtime": RUNTIME,
        "machine": platform.machine(),
        "images_per_second": {
            "median": round(statistics.median(rates), 2),
            "min": round(min(rates), 2),
            "max": round(max(rates), 2),
            "n": len(rates),
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
