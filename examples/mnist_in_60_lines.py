"""A DDPM on MNIST from the parts: schedule, objective, network, sampler. No trainer, no command.

    python examples/mnist_in_60_lines.py [data set] [steps]

With `digits` in place of `mnist` it needs no download. What it leaves out, and `pocketddpm train`
has: averaged weights, a learning rate that falls, resuming, pictures.
"""

import sys
from math import pi

import torch
from tqdm import trange

import pocketddpm as pd
from pocketddpm.diffusion import ObjectiveConfig, Schedule, build_objective, sample
from pocketddpm.networks import unet

name = sys.argv[1] if len(sys.argv) > 1 else "mnist"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 5000

# Data: uint8 [N,C,H,W] and the number of each image's class.
data = pd.load_images(name)
images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
channels, height, width = data.shape
classes = len(data.classes)

# The schedule: how much of the image is left at t = 0..1000, here a squared cosine.
schedule = Schedule((torch.linspace(0, pi / 2, 1001, dtype=torch.float64)).cos().square())

# What is learned: v, with one label in ten hidden, as the number after the last class.
objective = build_objective(ObjectiveConfig(prediction="v"), schedule, null=classes)

torch.manual_seed(0)
sizes = {"channels": channels, "out_channels": channels, "height": height, "width": width}
network = unet.build(unet.Config(widths=(32, 64)), **sizes, classes=classes)
optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)

for step in (bar := trange(steps)):
    batch = torch.randint(len(images), (128,))
    x0 = images[batch] / 127.5 - 1
    stream_index = torch.arange(step * 128, (step + 1) * 128)  # with the seed, it fixes the noise
    loss = objective(network, x0, labels[batch], stream_index, seed=0).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    bar.set_postfix(loss=f"{loss.item():.4f}")

# Four of each class, by DDIM in 25 steps, guided towards their labels.
wanted = torch.arange(classes).repeat(4)
network.eval()


def guided(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return v with classifier-free guidance of scale 2."""
    v, without = (network(x_t, t, y) for y in (wanted, torch.full_like(wanted, classes)))
    return without + 2.0 * (v - without)


shape = (len(wanted), channels, height, width)
how = {"takes": "x_t, t", "predicts": "v", "schedule": schedule, "clip": (-1, 1)}
x0 = sample(guided, shape=shape, sampler="ddim", steps=25, **how)
pixels = ((x0 + 1) * 127.5).round().to(torch.uint8).numpy()
pd.Samples(pixels, wanted.numpy(), nfe=50).save("samples.png", columns=classes)
print("wrote samples.png")
