"""Options of `evaluate`, `likelihood` and `extractor`, for Python and the command line alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pocketddpm.config import ImageOptions, Options
from pocketddpm.values import SEEDS, option, parse_names, parse_options, parse_size

FEWEST = 20  # samples


@dataclass(frozen=True)
class EvaluateOptions(ImageOptions):
    """How samples are drawn or read, and what they are measured against."""

    data: str | None = None
    """The real images: a data set, a folder with train/ and test/, or an .npz file; a model has its
    own."""
    n: int = option(10_000, f">= {FEWEST}")
    """How many samples to score; at most as many as there are real test images."""
    sampler: str | None = None
    """For a model: the algorithm; by default the model's own plan, here and below."""
    steps: int | None = option(None, ">= 1")
    """Steps of the sampler."""
    spacing: str | None = None
    """Where the steps lie."""
    sampler_options: Options | None = option(None, read=parse_options)
    """Options of the sampler, such as eta=1."""
    guidance: float | None = None
    """Classifier-free guidance; 1 is none, and the number to quote."""
    labels: tuple[str, ...] = option(("all",), read=parse_names)
    """Classes such as 3,7 (cycled), or all: in the training set's proportions."""
    weights: str = "ema"
    """ema (the average), model (the last step's), or a further average such as ema-3000."""
    seed: int = option(0, SEEDS)
    """Seed of the samples. What is drawn of the real images never changes."""
    batch_size: int = option(250, ">= 1")
    """Samples drawn at a time; bounds the memory."""
    fit: Literal["pad", "crop", "resize", "contain"] | None = None
    """How samples came to another size than the data's; a model knows."""
    extractor: str | None = None
    """A feature extractor, by name or as a .safetensors file, instead of the data set's own."""
    tstr: bool = False
    """Also train a classifier on the samples and test it on real images (minutes)."""
    device: str = "auto"
    """Where samples are drawn: auto, cpu, cuda or mps. Scoring is always done on the CPU."""
    out: Path | None = None
    """A folder for report.md, report.json, closest.png and, from a model, samples.npz."""
    overwrite: bool = False
    """Replace an --out that exists."""


@dataclass(frozen=True)
class LikelihoodOptions:
    """Which images' bits are measured, and how."""

    which: Literal["bound", "flow", "both"] = "bound"
    """bound: the variational bound. flow: the probability-flow ODE, some 20 times slower."""
    n: int = option(500, ">= 2")
    """How many images, drawn at random; all of them if there are fewer."""
    draws: int = option(20, ">= 1")
    """Steps of the bound that are drawn for each image; T takes every step."""
    flow_steps: int = option(64, ">= 2")
    """Steps of the flow's finer solve; an even number."""
    split: Literal["test", "train", "held-out"] = "test"
    """Which images: held-out is all that the run held out; where its data have no test split, test
    is the part of it that is for reporting."""
    data: str | None = None
    """Another data set or folder than the model's own."""
    labels: Literal["data", "none"] = "data"
    """data: p(x given y) with the true labels, where the model has labels. none: p(x)."""
    variance: Literal["beta", "beta-tilde", "learned"] | None = None
    """Variance of the bound's steps; by default the model's own."""
    weights: str = "ema"
    """ema (the average), model (the last step's), or a further average such as ema-3000."""
    seed: int = option(0, SEEDS)
    """Seed of times, noise and probes. Which images are drawn never changes."""
    batch_size: int = option(100, ">= 1")
    """Images at a time; bounds the memory and changes no number."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: Path | None = None
    """A folder for report.md, report.json and curve.png."""
    overwrite: bool = False
    """Replace an --out that exists."""


@dataclass(frozen=True)
class ExtractorOptions(ImageOptions):
    """How an extractor of one's own is made."""

    image_size: tuple[int, int] | None = option(None, ">= 1", read=parse_size)
    """Image size, 32 or 28x36 (height x width), for images of several sizes."""
    fit: Literal["pad", "crop", "resize", "contain"] | None = None
    """How that size is reached, as for train."""
    epochs: int | None = option(None, ">= 1")
    """Epochs of the classifier, instead of 40, or of fewer where the images are many or large."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """Arithmetic while training; auto is bf16 where the hardware has it."""
    overwrite: bool = False
    """Replace an --out that exists."""
