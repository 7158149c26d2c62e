"""An endless stream of training images, on the device; a function of the seed and the index in it.

Nothing is remembered between batches: a run that resumes at image n draws what it would have drawn,
and a batch may be split among processes in any way.

Shapes: B images in a batch, C channels, H x W pixels.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pocketddpm.data.image_set import ImageSet
from pocketddpm.errors import ConfigError
from pocketddpm.noise import Role, send, uniform


@dataclass(frozen=True)
class Batch:
    """Neighbouring images of the stream.

    images: uint8 [B,C,H,W].
    labels: int64 [B], or None for a set without labels.
    stream_index: int64 [B] on the CPU, the images' numbers in the stream.
    """

    images: Tensor
    labels: Tensor | None
    stream_index: Tensor


class Loader:
    """The whole set on the device, in an endless order drawn anew for every epoch."""

    def __init__(
        self,
        image_set: ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        epoch_images: int | None = None,
        flip: bool = False,
    ) -> None:
        """Move the set to the device.

        Args:
            image_set: the images; kept as uint8.
            batch_size: images in a batch, unless `batch` is given another count.
            seed: decides the order and the flips.
            device: where batches are made.
            epoch_images: images in an epoch, each at most once; None is the whole set.
            flip: mirror about half of the images left to right.

        Raises ConfigError when batch_size is below 1, or epoch_images not in 1..N.
        """
        count = len(image_set)
        if batch_size < 1:
            raise ConfigError(f"a batch size of {batch_size}: it must be at least 1")
        if epoch_images is not None and not 1 <= epoch_images <= count:
            raise ConfigError(
                f"an epoch has 1 to {count} images, all that {image_set.name} has; "
                f"got {epoch_images}"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.epoch_images = count if epoch_images is None else epoch_images
        self.flip = flip
        self.images = _on_device(image_set.images, self.device)  # uint8 [N,C,H,W]
        self.labels = (  # int64 [N]
            None if image_set.labels is None else _on_device(image_set.labels, self.device)
        )
        self._orders: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, start: int, count: int | None = None) -> Batch:
        """Return the images number start..start+count-1 of the stream.

        count: images wanted; `batch_size` when None. They may belong to several epochs.

        Raises ConfigError when start is below 0 or count below 1.
        """
        count = self.batch_size if count is None else count
        if start < 0 or count < 1:
            raise ConfigError(
                f"a batch of {count} images from number {start}: at least 1 image from number 0"
            )
        index = torch.cat(list(self._indices(start, start + count)))
        stream_index = torch.arange(start, start + count)
        images = self.images[index]
        if self.flip:
            mirrored = uniform(self.seed, Role.FLIP, stream_index) < 0.5
            mirrored = send(mirrored[:, None, None, None], self.device)
            images = torch.where(mirrored, images.flip(-1), images)
        labels = None if self.labels is None else self.labels[index]
        return Batch(images, labels, stream_index)

    def _indices(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the set's indices for the places start..stop-1 of the stream, epoch by epoch."""
        while start < stop:
            epoch, first = divmod(start, self.epoch_images)
            last = min(first + stop - start, self.epoch_images)
            yield self._order(epoch)[first:last]
            start += last - first

    def _order(self, epoch: int) -> Tensor:
        """Return one epoch's order, int64 [epoch_images] on the device."""
        if epoch not in self._orders:
            # Two suffice: a batch rarely reaches beyond the next epoch.
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            generator = torch.Generator().manual_seed(mix(self.seed, "order", epoch))
            order = torch.randperm(len(self.images), generator=generator)
            self._orders[epoch] = send(order[: self.epoch_images], self.device)
        return self._orders[epoch]


def _on_device(values: np.ndarray, device: torch.device) -> Tensor:
    # torch warns of arrays that it may not write to, such as a read-only map: those are copied.
    return torch.from_numpy(np.require(values, requirements=["C", "W", "E"])).to(device)


def mix(seed: int, role: str, number: int = 0) -> int:
    """Return 63 well-mixed bits for a seed, a role and a number; neighbours have nothing in common.

    Sums such as seed + number would make epoch 1 of seed 0 the same as epoch 0 of seed 1.
    """
    digest = hashlib.sha256(f"{seed} {role} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
