"""What a training step costs as images and networks grow: operations, state, activations.

    python benchmarks/scaling.py

Counted, not timed, so that any machine gives the same table: docs/scaling.md turns it into hours.
Operations are those of a forward pass (a training step takes three times as many). State is what
training keeps for each parameter: weight, average, gradient and the optimiser's moments, in
float32. Activations are what a forward pass saves for the backward one, for each image.
"""

import torch
from torch import Tensor, nn

from pocketddpm.build import build_network
from pocketddpm.config import DataConfig, Experiment, NetworkConfig
from pocketddpm.models.cost import count_flops, count_parameters

KEPT = 5  # float32 numbers for each parameter: weight, average, gradient, two moments
NETWORKS: dict[str, NetworkConfig] = {
    "lean (train mnist)": NetworkConfig("lean"),
    "unet 32/64/128": NetworkConfig("unet", {"widths": (32, 64, 128)}),
    "unet 128/256/256 (train unet-cifar10)": NetworkConfig(
        "unet", {"widths": (128, 256, 256), "blocks": 2, "attention": 2, "dropout": 0.1}
    ),
    "unet 128/256/384/512": NetworkConfig(
        "unet", {"widths": (128, 256, 384, 512), "blocks": 2, "attention": 2}
    ),
}
SHAPES = ((1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 128, 128))


def saved_bytes(net: nn.Module, *args: Tensor | None) -> int:
    """Return the bytes that a forward pass keeps for the backward one, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in net.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = net(*args)  # alive, so that no address is given away twice
    del kept
    return sum(seen.values())


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| network | images | parameters | GFLOP forward | state | activations per image |")
    print("|---|---|---|---|---|---|")
    for name, config in NETWORKS.items():
        for shape in SHAPES:
            if shape[1] % 8 and len(config.sizes.get("widths", ())) > 3:
                continue
            experiment = Experiment("scaling", DataConfig("none"), network=config)
            net = build_network(experiment, shape, 10)
            parameters, _ = count_parameters(net)
            x, t = torch.zeros(1, *shape), torch.ones(1)
            y = torch.zeros(1, dtype=torch.int64)
            flops = count_flops(net, x, t, y)
            size, state = "x".join(map(str, shape)), parameters * 4 * KEPT / 1e6
            print(
                f"| {name} | {size} | {parameters / 1e6:.1f}M | {flops / 1e9:.2f} | "
                f"{state:,.0f} MB | {saved_bytes(net, x, t, y) / 1e6:.1f} MB |"
            )


if __name__ == "__main__":
    main()
