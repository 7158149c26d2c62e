"""Sets larger than the memory: a run reads its images from a map, and is the same run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketddpm.commands.main import main
from pocketddpm.data.image_set import ImageSet, IndexedImages
from pocketddpm.metrics import reference_data
from pocketddpm.metrics.protocol import score
from pocketddpm.metrics.reference_data import load_reference_data
from pocketddpm.models.checkpoint import load_checkpoint

# A data set that is a map, which the environment names.
DATA = '''"""Images of a map."""
import os
import numpy as np
from pocketddpm.data.image_set import ImageSet

FLIP, FIT = True, "resize"

def load(split, *, path=None, image_size=None):
    images = np.load(os.environ["MANY"], mmap_mode="r")
    return ImageSet(images, np.arange(len(images)) % 2, ("even", "odd"), "many")
'''
# Three runs, of which the first loads what all need, and the most anonymous memory of each.
PEAKS = """
import os, sys, threading, time
from pathlib import Path
from pocketddpm.commands.main import main

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)

peak = [0]
threading.Thread(target=watch, daemon=True).start()
for name in ("few.npy", "few.npy", "many.npy"):
    os.environ["MANY"] = name
    peak[0] = 0
    main(sys.argv[1:])
    print(peak[0])
"""
NETWORK = "widths=8/16,blocks=1/1,head_width=8"
OPTIONS = f"--network lean --net {NETWORK} --batch-size 8 --precision float32 --sample-every 0 "
OPTIONS += "--center yes --flip yes"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux says what is anonymous")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """A choice of classes, a fingerprint, a mean image, batches and flips: nothing copies the set.

    Of 320 MB beside 40; the files hold nothing but holes, so that they take no disk.
    """
    (tmp_path / "many.py").write_text(DATA)
    for name, n in (("few.npy", 3300), ("many.npy", 26400)):
        np.lib.format.open_memmap(tmp_path / name, "w+", np.uint8, (n, 3, 64, 64))
    words = f"train folder --data many --plugin many.py --classes odd,even {OPTIONS} --steps 4"
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, *words.split(), "--overwrite"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    _, few, many = (int(line) for line in done.stdout.split())
    assert many - few < 60e6, (few, many)


def shades(folder: Path) -> None:
    import PIL.Image

    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    for k, image in enumerate(noise):
        PIL.Image.fromarray(image).save(folder / f"{k}.png")


def test_evaluation_reads_a_map_in_parts(tmp_path, monkeypatch):
    """Neither distances nor copies read more than 5,000 images at a time."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "many.npy", rng.integers(0, 256, (12_000, 1, 4, 4), np.uint8))
    images = ImageSet(np.load(tmp_path / "many.npy", mmap_mode="r"), None, (), "many")
    read = []
    of = IndexedImages.__getitem__

    def counted(self, which):
        found = of(self, which)
        read.append(len(found))
        return found

    monkeypatch.setattr(IndexedImages, "__getitem__", counted)
    monkeypatch.setattr(reference_data, "load_images", lambda *_, **__: images)
    monkeypatch.setattr(reference_data, "has_test", lambda *_: False)
    monkeypatch.setattr(reference_data, "has_inception", lambda: False)
    reference = load_reference_data("many")
    samples = ImageSet(rng.integers(0, 256, (30, 1, 4, 4), np.uint8), None, (), "samples")
    report = score(samples, reference)
    assert {"frechet pixels-pca", "recall", "copies pixels"} <= {row.key for row in report.rows}
    assert len(read) > 10 and max(read) <= 5000


def test_a_run_from_a_map_is_the_run_from_memory_and_resumes_exactly(tmp_path, monkeypatch):
    """The weights after eight steps: from memory, from the map, and from the map in two parts."""
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "cache"))
    shades(tmp_path / "set")
    read = []
    into = IndexedImages.read
    monkeypatch.setattr(IndexedImages, "read", lambda *args: (read.append(1), into(*args)))
    words = f"train folder --data {tmp_path / 'set'} {OPTIONS} --subset 36".split()
    main([*words, "--steps", "8", "--checkpoint-every", "4", "--out", str(tmp_path / "map")])
    assert len(read) >= 8
    halfway = str(tmp_path / "map" / "previous.safetensors")
    main(["train", "folder", "--resume", halfway, "--out", str(tmp_path / "parts")])
    read.clear()
    monkeypatch.setenv("POCKETDDPM_CACHE_GB", "0")
    monkeypatch.setenv("POCKETDDPM_CACHE", str(tmp_path / "none"))
    main([*words, "--steps", "8", "--out", str(tmp_path / "memory")])
    assert not read
    whole, *others = (
        load_checkpoint(tmp_path / run / "last.safetensors") for run in ("memory", "map", "parts")
    )
    assert whole.meta["run"]["step"] == 8
    for other in others:
        assert other.tensors.keys() == whole.tensors.keys()
        for name, value in whole.tensors.items():
            torch.testing.assert_close(other.tensors[name], value, rtol=0, atol=0)
