"""Networks of peers at their own published sizes for small grey images, for the benchmarks.

Each function returns (network, call(network, x, t, y), side). Those whose package is missing are
left out: `pip install 'pocketddpm[bench]'` brings them all.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Call = Callable[[Any, Tensor, Tensor, Tensor], Tensor]
Peer = tuple[nn.Module, Call, int]


def diffusers_course() -> Peer:
    """Return diffusers' network of its class-conditional MNIST notebook.

    The label enters as four extra input channels of an embedding.
    """
    from diffusers import UNet2DModel

    net = UNet2DModel(
        sample_size=28,
        in_channels=5,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    net.label = nn.Embedding(10, 4)

    def call(net: Any, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        label = net.label(y)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return net(torch.cat([x, label], 1), t).sample

    return net, call, 28


def smalldiffusion_unet() -> Peer:
    """Return smalldiffusion's U-Net of its Fashion-MNIST example."""
    from smalldiffusion import Unet

    net = Unet(28, 1, 1, ch=64, ch_mult=(1, 1, 2), attn_resolutions=(14,))
    return net, lambda net, x, t, y: net(x, t), 28


def smalldiffusion_dit() -> Peer:
    """Return smalldiffusion's transformer of its Fashion-MNIST example."""
    from smalldiffusion import DiT

    net = DiT(in_dim=28, channels=1, patch_size=2, depth=6, head_dim=32, num_heads=6)
    return net, lambda net, x, t, y: net(x, t), 28


def denoising_diffusion_pytorch() -> Peer:
    """Return denoising-diffusion-pytorch's U-Net of its README, with three levels."""
    from denoising_diffusion_pytorch import Unet

    net = Unet(dim=64, dim_mults=(1, 2, 4), channels=1)
    return net, lambda net, x, t, y: net(x, t), 32


PEERS: dict[str, Callable[[], Peer]] = {
    "diffusers course U-Net": diffusers_course,
    "smalldiffusion Unet": smalldiffusion_unet,
    "smalldiffusion DiT": smalldiffusion_dit,
    "denoising-diffusion-pytorch Unet": denoising_diffusion_pytorch,
}


def installed() -> dict[str, Peer]:
    """Return the peers whose packages are there, by name."""
    found = {}
    for name, make in PEERS.items():
        try:
            found[name] = make()
        except ImportError:
            continue
    return found
