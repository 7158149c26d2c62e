"""What is on the page as files: PNG, GIF, npz."""

from pathlib import Path
from tempfile import mkdtemp

from pocketddpm.demo.drawing import Film
from pocketddpm.models.samples import Samples
from pocketddpm.pictures import save_gif, save_grid


def write(film: Film, folder: Path, model: str) -> tuple[Path, Path, Path]:
    """Write a film's last images as a PNG grid, the film as a GIF, and the arrays as npz.

    They go into a new folder of their own in `folder`. The npz holds images, uint8 [N,H,W] (or
    [N,H,W,C]), and labels where there are any: what `pocketddpm sample --out x.npz` writes.
    """
    place = Path(mkdtemp(dir=folder))
    stem = f"pocketddpm-{model.replace('/', '-')}-{film.name}"
    png, gif, npz = (place / f"{stem}{suffix}" for suffix in (".png", ".gif", ".npz"))
    last = film.frames[-1]
    save_grid(png, last.x, film.columns)
    save_gif(gif, [frame.x for frame in film.frames], film.columns)
    Samples(last.x, film.labels, last.nfe).save(npz)
    return png, gif, npz
