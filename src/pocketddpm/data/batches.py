"""An endless stream of training images, on the device; a function of the seed and the index in it.

Nothing is remembered between batches: a run that resumes at image n draws what it would have drawn,
and a batch may be split among processes in any way.

Where the images lie: on the device where it has the room; else where they are, in memory or in a
memory map, and only batches travel, read ahead of time in a thread.

Shapes: B images in a batch, C channels, H x W pixels.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pocketddpm.data.augmentation import augmented
from pocketddpm.data.image_set import ImageArray, ImageSet, IndexedImages, chunks
from pocketddpm.errors import ConfigError
from pocketddpm.noise import Role, send, uniform

SHARE = 0.25  # of a device's free memory that a set may take; the network needs the rest


@dataclass(frozen=True)
class Batch:
    """Neighbouring images of the stream.

    images: uint8 [B,C,H,W].
    labels: int64 [B], or None for a set without labels.
    stream_index: int64 [B] on the CPU, the images' numbers in the stream.
    augmentation: float32 [B,9], how the images were changed (`data.augmentation`), or None.
    """

    images: Tensor
    labels: Tensor | None
    stream_index: Tensor
    augmentation: Tensor | None = None


class Loader:
    """A set of images in an endless order, drawn anew for every epoch.

    whole: whether all images lie on the device, or are in memory anyway where that is the CPU.
    """

    def __init__(
        self,
        image_set: ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        epoch_images: int | None = None,
        flip: bool = False,
        augment: float = 0.0,
    ) -> None:
        """Move the set to the device, where it has the room.

        Args:
            image_set: the images; kept as uint8.
            batch_size: images in a batch, unless `batch` is given another count.
            seed: decides the order, the flips and the changes.
            device: where batches are made.
            epoch_images: images in an epoch, each at most once; None is the whole set.
            flip: mirror about half of the images left to right.
            augment: the probability of each kind of change (`data.augmentation`).

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
        self.flip, self.augment = flip, augment
        self.images = _placed(image_set.images, self.device)  # uint8 [N,C,H,W]
        self.labels = (  # int64 [N]
            None if image_set.labels is None else _on_device(image_set.labels, self.device)
        )
        self._orders: dict[int, Tensor] = {}
        self._reader = ThreadPoolExecutor(1)  # which starts no thread before it is used
        self._ahead: tuple[int, int, Future[Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def whole(self) -> bool:  # noqa: D102  (see the class)
        return isinstance(self.images, Tensor)

    def batch(self, start: int, count: int | None = None, *, then: int | None = None) -> Batch:
        """Return the images number start..start+count-1 of the stream.

        count: images wanted; `batch_size` when None. They may belong to several epochs.
        then: the start of as many images that will be asked for next; unless the set is `whole`
        they are read meanwhile. It changes nothing but the time.

        Raises ConfigError when start is below 0 or count below 1.
        """
        count = self.batch_size if count is None else count
        if start < 0 or count < 1:
            raise ConfigError(
                f"a batch of {count} images from number {start}: at least 1 image from number 0"
            )
        index = torch.cat(list(self._indices(start, start + count)))
        stream_index = torch.arange(start, start + count)
        if isinstance(self.images, Tensor):
            images = self.images[index]
        else:
            images = send(self._read(start, index).result(), self.device)
            if then is not None:
                ahead = torch.cat(list(self._indices(then, then + count)))
                self._ahead = (then, count, self._read(then, ahead))
            index = send(index, self.device)
        if self.flip:
            mirrored = uniform(self.seed, Role.FLIP, stream_index) < 0.5
            mirrored = send(mirrored[:, None, None, None], self.device)
            images = torch.where(mirrored, images.flip(-1), images)
        labels = None if self.labels is None else self.labels[index]
        condition = None
        if self.augment:
            images, condition = augmented(images, self.augment, self.seed, stream_index)
        return Batch(images, labels, stream_index, condition)

    def _read(self, start: int, index: Tensor) -> "Future[Tensor]":
        """Return the images at these positions, int64 [B] on the CPU, as they are being read."""
        assert isinstance(self.images, IndexedImages)
        images, which = self.images, index.numpy()
        if self._ahead is not None and self._ahead[:2] == (start, len(index)):
            return self._ahead[2]

        def read() -> Tensor:
            # From pinned memory a copy to the GPU runs beside its work.
            pinned = self.device.type == "cuda"
            batch = torch.empty(len(which), *images.shape[1:], dtype=torch.uint8, pin_memory=pinned)
            images.read(which, batch.numpy())
            return batch

        return self._reader.submit(read)

    def _indices(self, start: int, stop: int) -> Iterator[Tensor]:
        """Yield the set's indices for the places start..stop-1 of the stream, epoch by epoch."""
        while start < stop:
            epoch, first = divmod(start, self.epoch_images)
            last = min(first + stop - start, self.epoch_images)
            yield self._order(epoch)[first:last]
            start += last - first

    def _order(self, epoch: int) -> Tensor:
        """Return one epoch's order, int64 [epoch_images], where the images lie."""
        if epoch not in self._orders:
            # Two suffice: a batch rarely reaches beyond the next epoch.
            self._orders = {e: o for e, o in self._orders.items() if e == epoch - 1}
            generator = torch.Generator().manual_seed(mix(self.seed, "order", epoch))
            order = torch.randperm(len(self.images), generator=generator)
            where = self.images.device if isinstance(self.images, Tensor) else order.device
            self._orders[epoch] = send(order[: self.epoch_images], where)
        return self._orders[epoch]


def _placed(images: ImageArray, device: torch.device) -> Tensor | IndexedImages:
    """Return the images on the device, where it has the room; else as they are, to be read."""
    mapped = isinstance(images, np.memmap | IndexedImages)
    if device.type == "cpu" and not mapped:
        return _on_device(np.asarray(images), device)
    if device.type == "cpu" or images.nbytes > SHARE * _free(device):
        is_part = isinstance(images, IndexedImages)
        return images if is_part else IndexedImages(np.asarray(images), np.arange(len(images)))
    # In pieces, so that a memory map never enters memory as a whole.
    placed = torch.empty(images.shape, dtype=torch.uint8, device=device)
    start = 0
    for part in chunks(images):
        placed[start : start + len(part)] = _on_device(part, device)
        start += len(part)
    return placed


def _free(device: torch.device) -> float:
    """Return the bytes of memory that are free on a device; infinite where it cannot be asked."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return float("inf")


def _on_device(values: np.ndarray, device: torch.device) -> Tensor:
    # torch warns of arrays that it may not write to, such as a read-only map: those are copied.
    return torch.from_numpy(np.require(values, requirements=["C", "W", "E"])).to(device)


def mix(seed: int, role: str, number: int = 0) -> int:
    """Return 63 well-mixed bits for a seed, a role and a number; neighbours have nothing in common.

    Sums such as seed + number would make epoch 1 of seed 0 the same as epoch 0 of seed 1.
    """
    digest = hashlib.sha256(f"{seed} {role} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
