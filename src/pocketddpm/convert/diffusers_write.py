"""A model as a folder that diffusers loads; diffusers itself is not needed to write it.

Unconditional models become a pipeline (`DDPMPipeline.from_pretrained`), class-conditional ones
`unet/` and `scheduler/`; both get a README.md with the lines that sample them.
"""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pocketddpm.config import ObjectiveConfig, SamplingConfig
from pocketddpm.convert.unet_names import as_ddpm_unet
from pocketddpm.errors import ConfigError
from pocketddpm.models.for_diffusers import PREDICTIONS, refusal
from pocketddpm.models.model import Model
from pocketddpm.models.publishing import public_meta, public_name
from pocketddpm.networks.ddpm_unet import Config
from pocketddpm.output import remove_files, replacing, write_json, write_text

VERSION = "0.33.0"  # the oldest one that the tests' extra allows
VARIANCES = {"beta": "fixed_large", "beta-tilde": "fixed_small", "learned": "learned_range"}
ABOUT = "pocketddpm.json"
"""What diffusers has no place for: class names and the whole experiment, for the way back."""


def write_diffusers(model: Model, out: Path) -> None:
    """Write the folder `out`.

    Raises ConfigError, before anything is written, for what the format cannot hold: another
    network than a plain U-Net or one that pads, EDM's prediction, images that are not in -1..1.
    """
    if why := refusal(model.experiment, model.shape, model.scaling):
        raise ConfigError(f"{why}; this model cannot be exported there")
    unet, tensors = unet_config(model), as_ddpm_unet(model)[1]
    scheduler = scheduler_config(model)
    # Of an earlier export: without labels there is an index, with labels there is none.
    remove_files(out, "model_index.json")
    if not model.classes:
        kind = scheduler["_class_name"]
        index = {
            "_class_name": kind.replace("Scheduler", "Pipeline"),
            "_diffusers_version": VERSION,
            "scheduler": ["diffusers", kind],
            "unet": ["diffusers", "UNet2DModel"],
        }
        write_json(out / "model_index.json", index)
    write_json(out / "unet" / "config.json", unet)
    with replacing(out / "unet" / "diffusion_pytorch_model.safetensors") as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    write_json(out / "scheduler" / "scheduler_config.json", scheduler)
    about = {k: v for k, v in public_meta(model.meta).items() if k not in ("run", "sha256")}
    write_json(out / ABOUT, about)
    write_text(out / "README.md", readme(model))


def unet_config(model: Model) -> dict[str, Any]:
    """Return the keyword arguments of `UNet2DModel`."""
    sizes, _ = as_ddpm_unet(model)
    channels, height, width = model.shape
    learned = model.experiment.objective.variance == "learned"
    levels = range(len(sizes.widths))
    attends = ["Attn" if level in sizes.attention else "" for level in levels]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": VERSION,
        "sample_size": height if height == width else [height, width],
        "in_channels": channels,
        "out_channels": channels * (2 if learned else 1),
        "block_out_channels": list(sizes.widths),
        "layers_per_block": sizes.blocks,
        "down_block_types": [f"{a}DownBlock2D" for a in attends],
        "up_block_types": [f"{a}UpBlock2D" for a in reversed(attends)],
        "add_attention": sizes.middle,
        "attention_head_dim": _head_width(sizes),
        "attn_norm_num_groups": sizes.groups,
        "norm_num_groups": sizes.groups,
        "norm_eps": sizes.eps,
        "resnet_time_scale_shift": "scale_shift" if sizes.scale_shift else "default",
        "downsample_padding": sizes.padding,
        "dropout": sizes.dropout,
        "time_embedding_type": "positional",
        "flip_sin_to_cos": True,
        "freq_shift": sizes.frequency_shift,
        "center_input_sample": False,
        "act_fn": "silu",
        # The row after the last class stands for "no label".
        "num_class_embeds": len(model.classes) + 1 if model.classes else None,
    }


def _head_width(sizes: Config) -> int | None:
    """Return diffusers' `attention_head_dim`; None is one head."""
    if sizes.head_width or sizes.heads == 1:
        return sizes.head_width or None
    widths = {sizes.widths[level] for level in sizes.attention}
    widths |= {sizes.widths[-1]} if sizes.middle else set()
    return widths.pop() // sizes.heads if widths else None


def plan_entries(plan: SamplingConfig, objective: ObjectiveConfig) -> dict[str, Any]:
    """Return what a scheduler's file says of a plan: DDIM stands for all samplers but DDPM.

    A network with a learned variance has outputs for it that only DDPM's scheduler knows.
    """
    ddpm = plan.sampler == "ddpm" or objective.variance == "learned"
    return {
        "_class_name": "DDPMScheduler" if ddpm else "DDIMScheduler",
        "clip_sample": plan.clip,
        "timestep_spacing": plan.spacing if plan.spacing in ("leading", "linspace") else "trailing",
    }


def scheduler_config(model: Model) -> dict[str, Any]:
    """Return the configuration of the scheduler, which diffusers' other schedulers read too."""
    objective, plan = model.experiment.objective, model.experiment.sampling
    config = {
        **plan_entries(plan, objective),
        "_diffusers_version": VERSION,
        "num_train_timesteps": model.schedule.T,
        "trained_betas": model.schedule.beta.tolist(),
        "prediction_type": PREDICTIONS[objective.prediction],
        "clip_sample_range": 1.0,
    }
    if config["_class_name"] == "DDPMScheduler":
        learned = objective.variance == "learned"
        variance = "learned" if learned else plan.options.get("variance", "beta-tilde")
        config["variance_type"] = VARIANCES[variance]
    return config


def readme(model: Model) -> str:
    """Return README.md: what this is, and Python that draws from it."""
    plan = model.experiment.sampling
    ddim = plan.sampler != "ddpm"
    clipped = ", use_clipped_model_output=True" if ddim and plan.clip else ""
    code = _conditional(model, ddim, clipped) if model.classes else _pipeline(model, ddim, clipped)
    c, height, width = model.shape
    note = ""
    if plan.sampler not in ("ddpm", "ddim"):
        note = f"\nMade for the sampler {plan.sampler}; these lines use DDIM.\n"
    return (
        "---\nlibrary_name: diffusers\n---\n\n"
        f"A denoising diffusion model for images of {c}x{height}x{width}, trained on "
        f"{public_name(model.experiment.data.name)} with pocketddpm. In this folder:\n\n"
        f"```python\n{code}```\n{note}"
        f"\n`{ABOUT}` is for pocketddpm, which takes the folder back with "
        "`pocketddpm import FOLDER --from diffusers`.\n"
    )


def _pipeline(model: Model, ddim: bool, clipped: str) -> str:
    name = "DDIMPipeline" if ddim else "DDPMPipeline"
    return (
        f"from diffusers import {name}\n\n"
        f'pipeline = {name}.from_pretrained(".")\n'
        f"steps = {model.experiment.sampling.steps}\n"
        f"images = pipeline(batch_size=4, num_inference_steps=steps{clipped}).images\n"
        'images[0].save("sample.png")\n'
    )


def _conditional(model: Model, ddim: bool, clipped: str) -> str:
    name = "DDIMScheduler" if ddim else "DDPMScheduler"
    classes, plan = len(model.classes), model.experiment.sampling
    c, height, width = model.shape
    guided = model.null is not None
    first = "output = unet(x, t, labels).sample\n"
    if guided:
        first += (
            f"        plain = unet(x, t, torch.full_like(labels, {classes})).sample"
            "  # no label\n"
            "        output = plain + guidance * (output - plain)\n"
        )
    begin = f"guidance = {plan.guidance:g}\n" if guided else ""
    # A learned variance stays as it is: guidance would lead it out of its range.
    if guided and model.experiment.objective.variance == "learned":
        first = first.replace(
            "output = plain + guidance * (output - plain)",
            f"output[:, :{c}] = (plain + guidance * (output - plain))[:, :{c}]",
        )
    return (
        "import torch\nfrom diffusers import "
        + ", ".join(sorted((name, "UNet2DModel")))
        + "\nfrom diffusers.utils import make_image_grid, pt_to_pil\n\n"
        'unet = UNet2DModel.from_pretrained(".", subfolder="unet").eval()\n'
        f'scheduler = {name}.from_pretrained(".", subfolder="scheduler")\n'
        f"scheduler.set_timesteps({plan.steps})\n"
        f"labels = torch.arange({classes})  # {', '.join(model.classes)}\n"
        f"{begin}"
        f"x = torch.randn({classes}, {c}, {height}, {width})\n"
        "with torch.no_grad():\n"
        "    for t in scheduler.timesteps:\n"
        f"        {first}"
        f"        x = scheduler.step(output, t, x{clipped}).prev_sample\n"
        f'make_image_grid(pt_to_pil(x), rows=1, cols={classes}).save("samples.png")\n'
    )
