"""The stream of training images: complete, independent of history, the same however it is split."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pocketddpm.data import batches
from pocketddpm.data.batches import Batch, Loader, mix
from pocketddpm.data.image_set import ImageSet, IndexedImages
from pocketddpm.errors import ConfigError

N = 23


def numbered(labels: bool = True, width: int = 2) -> ImageSet:
    """Return images that show their own number at the left and zeros elsewhere."""
    images = np.zeros((N, 1, 2, width), np.uint8)
    images[:, :, :, 0] = np.arange(N)[:, None, None]
    classes = tuple(str(i) for i in range(N)) if labels else ()
    return ImageSet(images, np.arange(N, dtype=np.int64) if labels else None, classes, "numbered")


def make(
    *, seed: int = 5, epoch_images: int | None = None, flip: bool = False, labels: bool = True
) -> Loader:
    return Loader(
        numbered(labels),
        batch_size=4,
        seed=seed,
        device="cpu",
        epoch_images=epoch_images,
        flip=flip,
    )


def drawn(batch: Batch) -> list[int]:
    """Return the images' own numbers, wherever a flip has put them."""
    return batch.images.amax(dim=(1, 2, 3)).tolist()


def same(a: Batch, b: Batch) -> None:
    torch.testing.assert_close(a.images, b.images, rtol=0, atol=0)
    torch.testing.assert_close(a.labels, b.labels, rtol=0, atol=0)
    torch.testing.assert_close(a.stream_index, b.stream_index, rtol=0, atol=0)


def test_every_image_comes_exactly_once_an_epoch() -> None:
    loader = make()
    epochs = [drawn(loader.batch(epoch * N, N)) for epoch in range(4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(N))
    # And each time in another order.
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_batches_have_the_form_that_is_promised() -> None:
    batch = make().batch(20)
    assert (batch.images.shape, batch.images.dtype) == ((4, 1, 2, 2), torch.uint8)
    assert batch.labels is not None
    assert batch.labels.dtype == batch.stream_index.dtype == torch.int64
    assert batch.labels.tolist() == drawn(batch)
    assert batch.stream_index.tolist() == [20, 21, 22, 23]
    assert make(labels=False).batch(20).labels is None
    assert len(make()) == N


@pytest.mark.parametrize("flip", [False, True])
def test_batches_do_not_depend_on_history(flip: bool) -> None:
    busy = make(flip=flip)
    for start in (0, 900, 17, 46, 45, 3):
        busy.batch(start, 30)
        same(busy.batch(start, 5), make(flip=flip).batch(start, 5))


def test_only_two_orders_are_kept() -> None:
    loader = make(epoch_images=1)
    for start in range(0, 50, 5):
        loader.batch(start, 5)
        assert len(loader._orders) <= 2


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("epoch_images", [None, 1, 7])
def test_batches_do_not_depend_on_how_the_stream_is_split(
    flip: bool, epoch_images: int | None
) -> None:
    loader = make(flip=flip, epoch_images=epoch_images)
    whole = loader.batch(0, 60)
    for size in (1, 4, 7, 30):
        parts = [loader.batch(start, min(size, 60 - start)) for start in range(0, 60, size)]
        joined = Batch(
            torch.cat([part.images for part in parts]),
            torch.cat([part.labels for part in parts if part.labels is not None]),
            torch.cat([part.stream_index for part in parts]),
        )
        same(joined, whole)


def test_a_short_epoch_is_the_beginning_of_the_whole_one() -> None:
    short, whole = make(epoch_images=7), make()
    for epoch in range(3):
        images = drawn(short.batch(7 * epoch, 7))
        assert images == drawn(whole.batch(N * epoch, 7))
        assert len(set(images)) == 7


def test_the_seed_decides_the_order() -> None:
    orders = [drawn(make(seed=seed).batch(0, N)) for seed in (0, 1, 2, -1, 2**70)]
    assert len({tuple(order) for order in orders}) == 5
    # Seeds and epochs do not simply add up.
    assert drawn(make(seed=0).batch(N, N)) != drawn(make(seed=1).batch(0, N))


def test_the_stream_can_be_very_long() -> None:
    far = 10**12
    assert sorted(drawn(make().batch(far * N, N))) == list(range(N))


def test_the_seeds_of_epochs_are_fixed_for_all_time() -> None:
    # The first 8 bytes of the sha256 of '7 order 3', by another tool. A change would break the
    # resumption of every run that is under way.
    assert mix(7, "order", 3) == 2096847134371818088


@pytest.mark.parametrize("epoch_images", [0, -1, N + 1])
def test_an_epoch_that_cannot_be(epoch_images: int) -> None:
    with pytest.raises(ConfigError, match=rf"\b{N}\b.* {epoch_images}\b"):
        make(epoch_images=epoch_images)


def test_a_batch_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"\b0\b"):
        Loader(numbered(), batch_size=0, seed=0, device="cpu")
    for start, count in ((-1, 4), (0, 0)):
        with pytest.raises(ConfigError, match=f"{count} .*{start}"):
            make().batch(start, count)


def test_flips_mirror_about_half_of_the_images_left_to_right() -> None:
    plain, flipping = make().batch(0, 2000), make(flip=True).batch(0, 2000)
    # Image 0 is all zeros, so that its flip cannot be seen.
    seen = plain.images.amax(dim=(1, 2, 3)) > 0
    mirrored = (flipping.images[..., -1] > 0).flatten(1).any(1) & seen
    expected = torch.where(mirrored[:, None, None, None], plain.images.flip(-1), plain.images)
    torch.testing.assert_close(flipping.images, expected)
    assert abs(mirrored[seen].double().mean().item() - 0.5) < 0.05
    # The same image is flipped in some epochs only.
    assert len(set(mirrored[plain.labels == 5].tolist())) == 2


def mapped(tmp_path: Path) -> ImageSet:
    """Return the numbered images in a read-only memory map."""
    images = numbered()
    np.save(tmp_path / "x.npy", images.images)
    return replace(images, images=np.load(tmp_path / "x.npy", mmap_mode="r"))


def test_a_map_is_read_where_it_lies(tmp_path: Path) -> None:
    """Of the set and of a part of it, whatever is said of the next batch."""
    images, index = mapped(tmp_path), np.random.default_rng(0).permutation(N)[:17]
    part = images.select(index)
    assert isinstance(part.images, IndexedImages)
    assert (part.shape, part.images.nbytes) == ((1, 2, 2), 17 * 4)
    np.testing.assert_array_equal(part.images, numbered().images[index])
    np.testing.assert_array_equal(part.images[3:5, 0, 1], numbered().images[index][3:5, 0, 1])
    np.testing.assert_array_equal(part.images[3, :, 1], numbered().images[index][3, :, 1])
    np.testing.assert_array_equal(part.select(np.arange(3)).images, numbered().images[index[:3]])
    for given, same_set in ((images, numbered()), (part, numbered().select(index))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            there, here = (
                Loader(each, batch_size=4, seed=5, device="cpu", flip=True)
                for each in (given, same_set)
            )
        assert (there.whole, here.whole) == (False, True)
        for start, then in ((0, 4), (4, 8), (8, 40), (12, None), (40, 44), (16, 20)):
            same(there.batch(start, 4, then=then), here.batch(start, 4))


def test_a_set_moves_to_a_device_that_has_the_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device without memory: a quarter of what is free may be taken, 92 bytes of 368."""
    for free, whole in ((368, True), (367, False)):
        monkeypatch.setattr(batches, "_free", lambda _, free=free: free)
        for images in (numbered(), mapped(tmp_path)):
            loader = Loader(images, batch_size=4, seed=5, device="meta")
            assert loader.whole is whole
            batch = loader.batch(0, then=4)
            assert batch.labels is not None
            assert batch.images.device.type == batch.labels.device.type == "meta"
            assert batch.images.shape == (4, 1, 2, 2)
