"""`pocketddpm show`: pictures of data, of the forward process, of a schedule, of a denoising."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pocketddpm.commands.options import Plugins, Positional, given, options_of
from pocketddpm.config import ImageOptions
from pocketddpm.errors import ConfigError
from pocketddpm.values import from_dict, parse_names, parse_options, parse_size

if TYPE_CHECKING:
    from pocketddpm.data.image_set import ImageSet


@dataclass(frozen=True, kw_only=True)
class Show(options_of(ImageOptions)):
    """Make a picture: of a data set, of its forward process, of a schedule, or of a denoising.

    Example: pocketddpm show forward mnist --out forward.png
    """

    what: Positional[Literal["data", "forward", "schedule", "strip"]]
    """data: images with labels. forward: images at 0, 25, 50, 75 and 100 % of T. schedule: curves
    of one or several schedules. strip: a model's images from noise to the end."""
    subject: Positional[str]
    """A data set or folder (data, forward), schedules such as linear,cosine (schedule), or a
    model (strip)."""
    n: int | None = None
    """How many images: 100 of the data, 8 otherwise."""
    schedule: str = "linear"
    """The schedule of the forward process."""
    schedule_options: str | None = None
    """Its options, such as beta_end=0.2."""
    timesteps: int = 1000
    """T."""
    panels: int = 10
    """Panels of a strip."""
    classes: str | None = None
    """Only these classes, such as 0,1,7."""
    image_size: str | None = None
    """Image size, 32 or 28x36 (height x width)."""
    fit: Literal["pad", "crop", "resize", "contain"] | None = None
    """How that is reached, as in `train`."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """The PNG; named after what is shown by default."""
    overwrite: bool = False
    """Replace a file that exists."""
    plugin: Plugins = ()
    """Your own network, sampler, schedule or data set: FILE.py (docs/plugins.md)."""

    def run(self) -> None:
        """Make the picture and say where it is."""
        from pocketddpm.models.samples import check_suffix
        from pocketddpm.output import refuse_existing

        stem = Path(self.subject).name.replace(",", "-") or "picture"
        out = self.out or Path(f"{self.what}-{stem}.png")
        check_suffix(out, ".png")
        if self.out is not None:
            refuse_existing(out, self.overwrite, folder=False)
        if self.n is not None and self.n < 1:
            raise ConfigError(f"--n must be at least 1, got {self.n}")
        getattr(self, f"_{self.what}")(out)
        print(f"wrote {out}")

    def _images(self, quiet: bool = False):
        from pocketddpm.data.load import load_images

        return load_images(
            self.subject,
            image_size=parse_size(self.image_size) if self.image_size else None,
            classes=parse_names(self.classes) if self.classes else None,
            fit=self.fit,
            quiet=quiet,
            **from_dict(ImageOptions, given(self)).image_options(),
        )

    def _few(self, images: "ImageSet", usual: int) -> "ImageSet":
        """Return --n of the images, every class in proportion; folders are sorted by class."""
        import numpy as np

        from pocketddpm.data.split import drawn

        return images.select(np.sort(drawn(images)[: self.n or usual]))

    def _data(self, out: Path) -> None:
        import numpy as np

        from pocketddpm.pictures import names_of, save_grid
        from pocketddpm.runs.summary import describe_images

        images = self._images(quiet=True)
        few = self._few(images, 100)
        save_grid(out, np.asarray(few.images), names=names_of(few.labels, few.classes))
        print("\n".join(describe_images(images)))
        print("classes: " + (", ".join(images.classes) or "none"))

    def _forward(self, out: Path) -> None:
        import numpy as np

        from pocketddpm.build import build_schedule
        from pocketddpm.config import ScheduleConfig
        from pocketddpm.pictures import names_of
        from pocketddpm.runs.previews import save_forward

        options = parse_options(self.schedule_options or "")
        schedule = build_schedule(ScheduleConfig(self.schedule, self.timesteps, options))
        images = self._images()
        few = self._few(images, 8)
        names = names_of(few.labels, few.classes)
        save_forward(out, np.asarray(few.images), schedule, names, seed=self.seed)

    def _schedule(self, out: Path) -> None:
        from pocketddpm.build import build_schedule
        from pocketddpm.config import ScheduleConfig
        from pocketddpm.pictures import figure, save_figure

        fig = figure(9.0, 3.6)
        left, right = fig.subplots(1, 2)
        for name in parse_names(self.subject):
            options = parse_options(self.schedule_options or "")
            schedule = build_schedule(ScheduleConfig(name, self.timesteps, options))
            left.plot(schedule.alpha_bar.numpy(), label=name)
            right.plot(range(1, schedule.T + 1), schedule.log_snr[1:].numpy(), label=name)
        left.set(xlabel="t", ylabel="alpha_bar")
        right.set(xlabel="t", ylabel="log SNR")
        save_figure(out, fig)

    def _strip(self, out: Path) -> None:
        from pocketddpm.models.verbs import sample

        n, labels = self.n or 8, self.classes or "all"
        picture = {"strip": out, "panels": self.panels, "rows": n, "overwrite": True}
        sample(self.subject, n, labels=labels, seed=self.seed, **picture)
