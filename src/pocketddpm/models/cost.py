"""`count_flops` and `count_parameters`: what a network costs and how large it is."""

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


def count_flops(net: nn.Module, *args: Tensor | None) -> int:
    """Return the floating-point operations of one forward pass `net(*args)`.

    A multiply-add counts as two. Convolutions and matrix products are counted, those of attention
    included; norms, activations and additions are not. Counted in evaluation mode, so that neither
    dropout nor running statistics leave a trace; the mode is put back afterwards.
    """
    training = net.training
    net.eval()
    try:
        # The plain attention kernel, because not every fused one is known to the counter.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            net(*args)
    finally:
        net.train(training)
    return flops.get_total_flops()


def count_parameters(net: nn.Module) -> tuple[int, int]:
    """Return the number of all parameters and of those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in net.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)
