"""A DDPM on MNIST from the parts: schedule, objective, network, sampler. No trainer, no command.

    python examples/mnist_in_60_lines.py [data set] [steps]

With `digits` in place of `mnist` it needs no download. What it leaves out, and `pocketddpm train`
has: averaged weights, a learning rate that falls, resuming, pictures.
"""

import sys
from pathlib import Path

import torch
from tqdm import trange

from pocketddpm.config import ObjectiveConfig
from pocketddpm.data.batches import Loader
from pocketddpm.data.load import load_images
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.build import build_objective
from pocketddpm.diffusion.denoiser import Denoiser
from pocketddpm.diffusion.grid import make_grid
from pocketddpm.diffusion.guidance import Guidance
from pocketddpm.diffusion.prediction import get_prediction
from pocketddpm.diffusion.sampling import sample_states
from pocketddpm.diffusion.schedule import Schedule
from pocketddpm.networks import unet
from pocketddpm.pictures import save_grid
from pocketddpm.samplers import ddim
from pocketddpm.schedules import cosine

name = sys.argv[1] if len(sys.argv) > 1 else "mnist"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5000

# Data: uint8 images, an endless shuffled stream of them, and the map to -1..1.
images = load_images(name)
channels, height, width = images.shape
classes = len(images.classes)
sizes = {"channels": channels, "height": height, "width": width, "classes": classes}
loader = Loader(images, batch_size=128, seed=0, device="cpu")
scaling = Scaling()

# What is learned: v at T = 1000 noise levels of a cosine schedule, one label in ten hidden.
schedule = Schedule(cosine.build(cosine.Config(), T=1000))
objective = build_objective(ObjectiveConfig(prediction="v"), schedule, null=classes)

torch.manual_seed(0)
network = unet.build(unet.Config(widths=(32, 64)), out_channels=channels, **sizes)
optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)

for step in (bar := trange(steps)):
    batch = loader.batch(step * 128, 128)
    x0 = scaling.to_model(batch.images)
    loss = objective(network, x0, batch.labels, batch.stream_index, seed=0).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    bar.set_postfix(loss=f"{loss.item():.4f}")

# Four of each class, by DDIM in 25 steps, guided towards their labels.
labels = torch.arange(classes).repeat(4)
denoiser = Denoiser(
    network.eval(),
    get_prediction("v"),
    labels,
    guidance=Guidance(2.0),
    null=classes,
    clip=scaling.clip,
)
grid, index = make_grid(schedule, steps=25), torch.arange(len(labels))
states = sample_states(
    denoiser, ddim.sample, grid, ddim.Config(), index=index, shape=images.shape, seed=0
)
*_, last = states
save_grid(Path("samples.png"), scaling.to_uint8(last.x).numpy(), classes)
print("wrote samples.png")
