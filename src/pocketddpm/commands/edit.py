"""`pocketddpm edit WHAT MODEL`: interpolate between images, vary them, or paint a part anew."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from pocketddpm.commands.options import Plugins, parse_numbers
from pocketddpm.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pocketddpm.diffusion.sampling import State
    from pocketddpm.models.editing import Images, Labels, Settings
    from pocketddpm.models.model import Model, Samples


@dataclass(frozen=True)
class Edit:
    """Edit images with a trained model: morph one into another, vary them, or paint a part anew.

    Example: pocketddpm edit inpaint runs/mnist --images mnist --index 0,1,2 --box 14,0,28,28
    """

    what: Positional[Literal["interpolate", "img2img", "inpaint"]]
    """interpolate: a row of pictures from each image to the next. img2img: noise the images, and
    draw them from there. inpaint: paint a part anew."""
    model: Positional[str]
    """A run folder or a checkpoint."""
    images: tuple[str, ...]
    """Image files, or a data set (a name or a folder)."""
    index: str = "0,1,2,3"
    """Which images of a data set."""
    split: Literal["train", "test"] = "train"
    """Which part of a data set."""
    labels: str | None = None
    """Classes to draw, such as 3,7 (cycled); none by default."""
    strength: float | None = None
    """How far up into noise, 0 to 1: 0.5 for img2img. With interpolate: blend the images there,
    in place of encoding them."""
    mask: Path | None = None
    """The part to paint: an image file, white there."""
    box: str | None = None
    """The part to paint: TOP,LEFT,BOTTOM,RIGHT in pixels."""
    jump_length: int = 10
    """Inpainting repeats the run in stretches of this many steps."""
    jump_count: int = 10
    """How many times each stretch is walked; 1 is no repetition."""
    frames: int = 8
    """Pictures in a row of an interpolation."""
    sampler: str | None = None
    """The algorithm: ddpm for inpaint, ddim for interpolate, else the model's own by default."""
    steps: int | None = None
    """Steps of the sampler, from T; fewer are taken from below."""
    guidance: float | None = None
    """Classifier-free guidance; 1 is none."""
    seed: int = 0
    """Seed of the noise."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """The PNG: before, mask and after, a row each; edit-WHAT.png by default."""
    gif: Path | None = None
    """Also an animation: of the morphing, or of the denoising."""
    overwrite: bool = False
    """Replace files that exist."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Edit, write, and say what was written where."""
        from pocketddpm.build import pick_device
        from pocketddpm.models.editing import Settings
        from pocketddpm.models.model import load_model
        from pocketddpm.output import refuse_existing

        self._check()
        out = self.out or Path(f"edit-{self.what}.png")
        # The default place is the command's own: only a name that was given is protected.
        for path in (self.out, self.gif):
            if path is not None:
                refuse_existing(path, self.overwrite)
        model = load_model(self.model, pick_device(self.device))
        images = self._images(model)
        edit = {
            "interpolate": self._interpolate,
            "img2img": self._img2img,
            "inpaint": self._inpaint,
        }[self.what]
        settings = Settings(
            sampler=self.sampler, steps=self.steps, guidance=self.guidance, seed=self.seed
        )
        samples, written = edit(model, images, settings, out)
        print(
            f"{self.what}: {len(images)} images, {samples.nfe} evaluations each, seed {self.seed}"
        )
        print("wrote " + ", ".join(str(p) for p in written))

    def _check(self) -> None:
        """Refuse what can be refused before anything is loaded."""
        if not self.images:
            raise ConfigError("give --images: image files, or a data set")
        given = (self.mask is not None) + (self.box is not None)
        if self.what == "inpaint" and given != 1:
            raise ConfigError("inpaint needs the part to paint: give one of --mask and --box")
        if self.what != "inpaint" and given:
            raise ConfigError(f"--mask and --box are for inpaint; {self.what} has no use for them")
        if self.what == "inpaint" and self.strength is not None:
            raise ConfigError("--strength is for img2img and interpolate; inpaint starts at T")
        for path in (self.out, self.gif):
            suffix = ".gif" if path is self.gif else ".png"
            if path is not None and path.suffix != suffix:
                raise ConfigError(f"{path} must end in {suffix}")

    def _images(self, model: "Model") -> "Images":
        """Return uint8 [N,C,H,W] of the model's shape, from files or a data set."""
        import numpy as np

        from pocketddpm.data.load import load_images

        channels, *size = model.shape
        if any(Path(name).is_file() for name in self.images):
            return np.stack([_decode(Path(name), channels, size) for name in self.images])
        name, *more = self.images
        if more:
            raise DataError(f"no such files: {', '.join(self.images)}; or name one data set")
        fit = model.experiment.data.fit
        found = load_images(name, self.split, image_size=(size[0], size[1]), fit=fit)
        if found.shape != model.shape:
            raise ConfigError(
                f"{found.name} has {found.shape[0]} channels, and the model edits {channels}"
            )
        chosen = [int(k) for k in self.index.split(",") if k.strip().isdecimal()]
        if len(chosen) != self.index.count(",") + 1 or max(chosen) >= len(found):
            raise ConfigError(
                f"--index reads 0,5,7 with numbers below {len(found)}, got '{self.index}'"
            )
        return np.ascontiguousarray(found.images[chosen])

    def _labels(self, model: "Model", count: int) -> "Labels | None":
        return None if self.labels is None else model.label_numbers(self.labels, count, self.seed)

    def _interpolate(
        self, model: "Model", images: "Images", settings: "Settings", out: Path
    ) -> "tuple[Samples, list[Path]]":
        import numpy as np

        from pocketddpm.models.editing import interpolate, start_time
        from pocketddpm.pictures import save_gif, save_grid

        if len(images) < 2:
            raise ConfigError("interpolate needs at least two images; give more --images")
        one, other = images[:-1], images[1:]
        samples = interpolate(
            model,
            one,
            other,
            frames=self.frames,
            t=None if self.strength is None else start_time(model, self.strength),
            labels=self._labels(model, len(one)),
            settings=settings,
        )
        rows = samples.images.reshape(len(one), self.frames, *model.shape)
        rows = np.concatenate([one[:, None], rows, other[:, None]], axis=1)
        save_grid(out, rows.reshape(-1, *model.shape), self.frames + 2)
        if self.gif is None:
            return samples, [out]
        save_gif(self.gif, list(rows.swapaxes(0, 1)))
        return samples, [out, self.gif]

    def _img2img(
        self, model: "Model", images: "Images", settings: "Settings", out: Path
    ) -> "tuple[Samples, list[Path]]":
        from pocketddpm.models.editing import img2img

        with Film(model) as film:
            samples = img2img(
                model,
                images,
                strength=0.5 if self.strength is None else self.strength,
                labels=self._labels(model, len(images)),
                settings=settings,
                watch=film,
            )
        return samples, self._write(out, [images, samples.images], film)

    def _inpaint(
        self, model: "Model", images: "Images", settings: "Settings", out: Path
    ) -> "tuple[Samples, list[Path]]":
        import numpy as np

        from pocketddpm.models.editing import inpaint

        mask = self._mask(model)
        with Film(model) as film:
            samples = inpaint(
                model,
                images,
                mask,
                jump_length=self.jump_length,
                jump_count=self.jump_count,
                labels=self._labels(model, len(images)),
                settings=settings,
                watch=film,
            )
        hidden = np.where(mask, np.uint8(255), images)
        return samples, self._write(out, [images, hidden, samples.images], film)

    def _mask(self, model: "Model") -> "NDArray[np.bool_]":
        """Return bool [H,W], True where to paint."""
        import numpy as np

        _, height, width = model.shape
        if self.mask is not None:
            mask = _decode(self.mask, 1, [height, width])[0] > 127
        else:
            form = "TOP,LEFT,BOTTOM,RIGHT"
            top, left, bottom, right = parse_numbers(self.box or "", form, int)
            if not (0 <= top < bottom <= height and 0 <= left < right <= width):
                raise ConfigError(
                    f"--box {self.box} is no part of {height}x{width} pixels; give {form}"
                )
            mask = np.zeros((height, width), np.bool_)
            mask[top:bottom, left:right] = True
        if not mask.any():
            raise ConfigError(f"{self.mask} has no white part, so that there is nothing to paint")
        return mask

    def _write(self, out: Path, rows: "list[Images]", film: "Film") -> list[Path]:
        import numpy as np

        from pocketddpm.pictures import save_gif, save_grid

        save_grid(out, np.concatenate(rows), len(rows[0]))
        if self.gif is None:
            return [out]
        save_gif(self.gif, film.frames(40) or [rows[-1]], len(rows[0]))
        return [out, self.gif]


class Film:
    """Shows the steps of an edit as a progress bar, and keeps their images for an animation."""

    def __init__(self, model: "Model") -> None:
        from pocketddpm.progress import bar

        self.to_uint8 = model.scaling.to_uint8
        self.bar = bar(unit="step")
        self.kept: list[Images] = []

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def __call__(self, state: "State") -> None:
        """Record one state."""
        self.bar.update()
        self.kept.append(self.to_uint8(state.x).cpu().numpy())

    def frames(self, most: int) -> "list[Images]":
        """Return at most so many frames [N,C,H,W], evenly spaced, with the last."""
        every = max(1, -(-len(self.kept) // most))
        return self.kept[::-1][::every][::-1]


def _decode(path: Path, channels: int, size: list[int]) -> "Images":
    """Return one image file as uint8 [C,H,W] of the model's size; DataError if it cannot be."""
    from pocketddpm.data.decode import decode

    try:
        return decode(path, channels=channels, image_size=(size[0], size[1]))
    # A damaged file can make a decoder raise almost anything.
    except Exception as error:
        raise DataError(f"{path}: cannot be read as an image ({error})") from None
