"""What a run is made of: each option reaches the part that it is for."""

from dataclasses import replace

import pytest
import torch

from conftest import with_training
from pocketddpm.models.checkpoint import load_checkpoint
from pocketddpm.runs.data import load_run_data
from pocketddpm.runs.run import build_trainer
from pocketddpm.runs.start import start

CPU = torch.device("cpu")
CHECKPOINTS = ("previous.safetensors", "last.safetensors")


def trainer_of(experiment):
    return build_trainer(experiment, load_run_data(experiment, CPU), CPU)


@pytest.mark.parametrize(
    ("checkpoint_every", "sample_every", "before_last", "previews"),
    [(2, 0, 4, []), (0, 4, 0, [4, 5])],
)
def test_checkpoints_and_previews_have_intervals_of_their_own(
    tiny, tmp_path, checkpoint_every, sample_every, before_last, previews
):
    every = {"checkpoint_every": checkpoint_every, "sample_every": sample_every}
    start(with_training(tiny, steps=5), out=tmp_path, device="cpu", **every).run()
    steps = [load_checkpoint(tmp_path / name).meta["run"]["step"] for name in CHECKPOINTS]
    assert steps == [before_last, 5]
    assert sorted(path.name for path in tmp_path.glob("samples/*")) == [
        f"step-{step:07d}.png" for step in previews
    ]


def test_the_seed_decides_the_first_weights_and_the_stream(tiny):
    one, again, other = (trainer_of(with_training(tiny, seed=seed)) for seed in (1, 1, 2))
    weights = [t.network.state_dict()["conv_in.weight"] for t in (one, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    first = [t.loader.batch(0, 8).labels for t in (one, again, other)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_labels_are_hidden_under_a_number_of_their_own(tiny):
    trainer = trainer_of(tiny)
    assert trainer.objective.null == 10 == len(load_run_data(tiny, CPU).classes)
    seen = []
    trainer.network.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    trainer.objective = replace(trainer.objective, label_dropout=0.5)
    for _ in trainer.steps():
        pass
    labels = torch.cat(seen)
    assert 0.3 < (labels == 10).double().mean() < 0.7
    assert set(labels.tolist()) == set(range(11))


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("float32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_network_computes_in_the_precision_that_was_asked_for(tiny, tmp_path, precision, dtype):
    trainer = trainer_of(with_training(tiny, precision=precision))
    seen = []
    trainer.network.conv_in.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    next(trainer.steps())
    assert set(seen) == {dtype}


def test_torchs_own_generator_is_left_as_it_was(tiny):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for _ in trainer_of(tiny).steps():
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_the_masks_of_dropout_are_drawn_anew_and_resumed_exactly(tiny):
    """By the stream index: each step has other masks, the same ones after a restart."""
    sizes = {"sizes": {**tiny.network.sizes, "dropout": 0.5}}
    tiny = with_training(replace(tiny, network=replace(tiny.network, **sizes)), steps=6)
    whole, half, rest = (trainer_of(tiny) for _ in range(3))
    losses = [float(result.loss) for result in whole.steps()]
    for result in half.steps():
        if result.step == 3:
            break
    torch.rand(7)  # somebody else draws in between
    rest.restore(half.state())
    assert [float(result.loss) for result in rest.steps()] == losses[3:]
    with_masks, other_masks = (whole._gradient()[0] for _ in range(2))
    assert with_masks == other_masks
    whole.images_seen += 16
    assert whole._gradient()[0] != with_masks
