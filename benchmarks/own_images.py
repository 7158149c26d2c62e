"""A folder of one's own images: ours beside two peers, the same minutes, the same yardstick.

    python benchmarks/own_images.py --phase train --minutes 15 --work WORK --out rows.jsonl
    python benchmarks/own_images.py --phase score --work WORK --out rows.jsonl

Two sets below POCKETDDPM_DATA: photographs of 32x32 (which have a test split) and emoji of 64x64
(of which a tenth is held out). Three systems, in turns, each in a process of its own with --threads
threads: `pocketddpm train folder` as it is, and the peers' own recipes, which SYSTEMS below
describes with all that was changed so that they run here. All in float32.

pocketddpm's minutes are all that `train --minutes` counts, its start and previews included; a
peer's clock starts at its first step, and the step that passes the end is finished. The peers get
the training images as PNG files, as pocketddpm sees them: the held-out ones are not among them.

Scoring draws --n samples from each (at most as many as there are held-out images), pocketddpm by
its recipe's sampler, a peer by its own DDIM in --steps steps: the steps that they ship (1000, 250)
take hours on a CPU. `evaluate` then compares the arrays with the same held-out images.

Each JSON row is appended to --out when it is done; what is there is not done again. The peers need
the extras bench, diffusers and hub.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from itertools import chain, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

import pocketddpm as pd
from pocketddpm.build import pick_device
from pocketddpm.data.image_set import ImageSet
from pocketddpm.data.load import has_test, load_images
from pocketddpm.data.split import usual_parts
from pocketddpm.models.provenance import machine, versions
from pocketddpm.models.samples import Samples

ROWS, COLUMNS = 8, 10  # of a peer's picture
BATCH = 16  # images of a training step, of both peers
AT_ONCE = 50  # samples
TIMED = 3  # steps


class Trained(NamedTuple):
    """Training images seen, steps, and the seconds of a system's own clock."""

    images: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class System:
    """train(folder of images, side, minutes, seed, out); draw(out, side, n, steps)."""

    recipe: str
    train: Callable[[Path, int, float, int, Path], Trained]
    draw: Callable[[Path, int, int, int], Samples]


SETS = {"photos32": "cifar10-jpg", "emoji64": "emoji"}


def ours_train(folder: Path, side: int, minutes: float, seed: int, out: Path) -> Trained:
    """Train as a user does."""
    command = ["train", "folder", "--data", folder, "--minutes", minutes, "--seed", seed]
    command += ["--out", out / "run", "--overwrite"]
    subprocess.run([sys.executable, "-m", "pocketddpm", *map(str, command)], check=True)
    run = pd.load(out / "run").meta["run"]
    return Trained(run["images_seen"], run["step"], run["seconds"])


def ours_draw(out: Path, side: int, n: int, steps: int) -> Samples:
    """Draw by the recipe's sampler, classes in the training set's proportions."""
    model = pd.load(out / "run")
    if model.classes:
        shown = ROWS * len(model.classes)
        model.sample(shown, labels=list(model.classes), seed=2).save(out / "grid.png")
    return model.sample(n, labels="all", seed=1)


def until(batches: Iterable[Any], minutes: float) -> Iterator[Any]:
    """Yield batches until the minutes since the first one are over."""
    end = 0.0
    for batch in batches:
        end = end or time.monotonic() + 60 * minutes
        if time.monotonic() >= end:
            return
        yield batch


def lucidrains(side: int, steps: int | None = None) -> Any:
    """Return its U-Net within its process."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    net = Unet(dim=64, dim_mults=(1, 2, 4, 8), flash_attn=False)
    return GaussianDiffusion(net, image_size=side, timesteps=1000, sampling_timesteps=steps)


def lucidrains_train(folder: Path, side: int, minutes: float, seed: int, out: Path) -> Trained:
    """Train with its Trainer, whose stream of batches ends with the time."""
    from denoising_diffusion_pytorch import Trainer

    torch.manual_seed(seed)
    trainer = Trainer(
        lucidrains(side),
        str(folder),
        train_batch_size=BATCH,
        save_and_sample_every=10**9,
        results_folder=str(out / "results"),
        calculate_fid=False,
    )
    trainer.dl = until(trainer.dl, minutes)
    began = time.monotonic()
    with suppress(StopIteration):  # of the stream
        trainer.train()
    seconds = time.monotonic() - began
    torch.save(trainer.ema.ema_model.state_dict(), out / "average.pt")
    return Trained(BATCH * trainer.step, trainer.step, seconds)


def lucidrains_draw(out: Path, side: int, n: int, steps: int) -> Samples:
    """Draw from the average by its DDIM."""
    model = lucidrains(side, steps)
    model.load_state_dict(torch.load(out / "average.pt", weights_only=True))
    model.eval()
    return collected(n, steps, lambda k: model.sample(batch_size=k).permute(0, 2, 3, 1).numpy())


def diffusers_train(folder: Path, side: int, minutes: float, seed: int, out: Path) -> Trained:
    """Train as its example does."""
    from datasets import load_dataset
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    from torchvision import transforms

    torch.manual_seed(seed)
    net = UNet2DModel(
        sample_size=side,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=(*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
    )
    images = load_dataset(
        "imagefolder", data_dir=str(folder), split="train", cache_dir=str(out / "cache")
    )
    sized = [transforms.Resize(side), transforms.CenterCrop(side)]
    flipped = [transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    read = transforms.Compose([*sized, *flipped, transforms.Normalize([0.5], [0.5])])
    images.set_transform(lambda rows: {"input": [read(i.convert("RGB")) for i in rows["image"]]})
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH, shuffle=True)
    noise_of = DDPMScheduler(num_train_timesteps=1000)
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8
    )

    def backward(x0: torch.Tensor) -> None:
        eps, t = torch.randn_like(x0), torch.randint(0, 1000, (len(x0),))
        F.mse_loss(net(noise_of.add_noise(x0, eps, t), t).sample, eps).backward()

    batch = next(iter(loader))["input"]
    mark = time.monotonic()
    for _ in range(TIMED):  # only to plan: no step is taken
        backward(batch)
    optimiser.zero_grad()
    planned = max(1, int(60 * minutes * TIMED / (time.monotonic() - mark)))
    planned = min(planned, 100 * len(loader))
    rate = get_scheduler(
        "cosine", optimiser, num_warmup_steps=min(500, planned // 10), num_training_steps=planned
    )
    average = EMAModel(
        net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75
    )
    steps, seen, began = 0, 0, time.monotonic()
    for batch in until(chain.from_iterable(repeat(loader)), minutes):
        backward(batch["input"])
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        rate.step()
        average.step(net.parameters())
        optimiser.zero_grad()
        steps, seen = steps + 1, seen + len(batch["input"])
    seconds = time.monotonic() - began
    average.copy_to(net.parameters())
    net.save_pretrained(out / "average")
    return Trained(seen, steps, seconds)


def diffusers_draw(out: Path, side: int, n: int, steps: int) -> Samples:
    """Draw from the average by its DDIM pipeline."""
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel

    net = UNet2DModel.from_pretrained(out / "average").eval()
    scheduler = DDIMScheduler.from_config(DDPMScheduler(num_train_timesteps=1000).config)
    pipeline = DDIMPipeline(net, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "output_type": "np"}
    return collected(n, steps, lambda k: pipeline(batch_size=k, **options).images)


def collected(n: int, steps: int, draw: Callable[[int], Any]) -> Samples:
    """Return n images of draw(k), which gives float [k,H,W,3] in [0, 1]."""
    torch.manual_seed(1)
    parts = [draw(min(AT_ONCE, n - k)) for k in range(0, n, AT_ONCE)]
    pixels = (np.concatenate(parts) * 255).round().clip(0, 255).astype(np.uint8)
    return Samples(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), None, steps)


SYSTEMS = {
    "pocketddpm": System(
        "pocketddpm train folder --data FOLDER --minutes M; its own sampler, 10 steps",
        ours_train,
        ours_draw,
    ),
    "denoising-diffusion-pytorch": System(
        "Trainer with its constructor's defaults (batch 16, Adam 1e-4, average 0.995, flips), "
        "Unet(64, (1, 2, 4, 8)) and GaussianDiffusion(1000) of its README. Changed: batch 16 and "
        "1e-4, not the README's 2 x 32 and 8e-5, which would be a quarter of the steps; flash "
        "attention, mixed precision and FID while training are off, as the README has them for a "
        "GPU; DDIM in fewer than its 250 steps",
        lucidrains_train,
        lucidrains_draw,
    ),
    "diffusers": System(
        "train_unconditional.py: its UNet2DModel (113.7M), DDPMScheduler(1000), AdamW 1e-4, batch "
        "16, flips, average with power 3/4. Changed: the cosine decay ends where the minutes do, "
        "not after 100 epochs, and warms up over a tenth of the steps where these are fewer than "
        "5000, not over 500; no accelerate, which would do nothing here; DDIM in fewer than the "
        "pipeline's 1000 steps",
        diffusers_train,
        diffusers_draw,
    ),
}


def path_of(data: str) -> Path:
    """Return where a set lies."""
    return Path(os.environ.get("POCKETDDPM_DATA", "data")) / SETS[data]


def images_of(data: str) -> tuple[ImageSet, int]:
    """Return what is trained on, as `train folder` divides it, and how many images report."""
    path = str(path_of(data))
    images = load_images(path)
    if has_test(path):
        return images, len(load_images(path, "test"))
    parts = usual_parts(images)
    return parts.training, parts.for_reporting


def written(data: str, folder: Path) -> Path:
    """Write the training images as PNG files, unless they are there; return their folder."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}-unfinished")
        Samples(np.asarray(images_of(data)[0].images), None, 0).save(unfinished)
        unfinished.rename(folder)
    return folder.resolve()


def train(args: argparse.Namespace, data: str, name: str, out: Path) -> dict[str, Any]:
    """Train one system; return its row."""
    side, folder = load_images(str(path_of(data))).shape[1], path_of(data)
    if name != "pocketddpm":
        folder = written(data, args.work / data / "images")
    found = SYSTEMS[name].train(folder, side, args.minutes, args.seed, out)
    row = {"minutes": args.minutes, **found._asdict(), "seconds": round(found.seconds, 1)}
    return row | {"images_per_second": round(found.images / found.seconds, 3), "seed": args.seed}


def score(args: argparse.Namespace, data: str, name: str, out: Path) -> dict[str, Any]:
    """Draw and score the samples of one system; return its row."""
    training, reporting = images_of(data)
    n = min(args.n, reporting)
    mark = time.monotonic()
    drawn = SYSTEMS[name].draw(out, training.shape[1], n, args.steps)
    seconds = time.monotonic() - mark
    drawn.save(out / "samples.npz")
    if drawn.labels is None:
        Samples(drawn.images[: ROWS * COLUMNS], None, drawn.nfe).save(out / "grid.png", COLUMNS)
    report = pd.evaluate(
        out / "samples.npz", data=str(path_of(data)), n=n, out=out / "score", overwrite=True
    )
    row: dict[str, Any] = {"n": report.n, "nfe": drawn.nfe, "seconds": round(seconds, 1)}
    for measure in report.rows:
        row[measure.key] = round(measure.value.value, 4)
        if measure.floor is not None:
            row[f"{measure.key} floor"] = round(measure.floor.value, 4)
            if measure.by == "ratio" and (ratio := measure.comparison):
                row[f"{measure.key} ratio"] = round(ratio.value, 3)
    return row


PHASES = {"train": train, "score": score}


def main() -> None:
    """Do what has no row yet, each in a process of its own."""
    parser = argparse.ArgumentParser(description="Your own images, beside peers.")
    parser.add_argument("--phase", choices=[*PHASES, "all"], default="all")
    parser.add_argument("--data", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--n", type=int, default=1000, help="samples of each")
    parser.add_argument("--steps", type=int, default=50, help="of the peers' DDIM")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("own_images"))
    parser.add_argument("--out", type=Path, default=Path("own_images.jsonl"))
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)  # phase, set, system: here
    args = parser.parse_args()
    if args.only:
        phase, data, name = args.only
        out = args.work / data / name
        out.mkdir(parents=True, exist_ok=True)
        row = {"phase": phase, "data": data, "system": name, "date": date.today().isoformat()}
        row |= PHASES[phase](args, data, name, out) | {"recipe": SYSTEMS[name].recipe}
        row |= {"versions": versions(), "machine": machine(pick_device("cpu"))}
        print(json.dumps(row), flush=True)
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(row["phase"], row["data"], row["system"]) for row in map(json.loads, lines)}
    for phase in [args.phase] if args.phase in PHASES else PHASES:
        for name in args.systems:
            for data in args.data:
                if (phase, data, name) in done:
                    continue
                command = [sys.executable, __file__, *sys.argv[1:], "--only", phase, data, name]
                subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
