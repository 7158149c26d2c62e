"""Export to diffusers and import from it: the same images, the same outputs, or a clear no."""

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from pocketddpm.build import build_network, build_schedule
from pocketddpm.catalog import SAMPLERS
from pocketddpm.commands.main import main
from pocketddpm.config import (
    DataConfig,
    Experiment,
    NetworkConfig,
    ObjectiveConfig,
    SamplingConfig,
    ScheduleConfig,
)
from pocketddpm.convert.diffusers_read import (
    SCHEDULERS,
    SchedulerFile,
    UNetFile,
    _schedule,
    _typed,
    read_diffusers,
)
from pocketddpm.convert.diffusers_write import write_diffusers
from pocketddpm.convert.unet_names import as_ddpm_unet
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.sampling import start_noise
from pocketddpm.errors import CheckpointError, ConfigError, DDPMError
from pocketddpm.models.checkpoint import save_checkpoint
from pocketddpm.models.model import Model, load
from pocketddpm.networks import ddpm_unet
from pocketddpm.values import from_dict

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore::FutureWarning")]

SIZES = {"widths": (8, 16, 24), "blocks": 2, "attention": 2, "head_width": 8, "groups": 4}
# Where the process is what is looked at, and not the network.
LITTLE = {"widths": (8, 16), "blocks": 1, "attention": 1, "head_width": 8, "groups": 4}
CIFAR = {  # google/ddpm-cifar10-32's own config.json and scheduler_config.json
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}


def awake(network):
    """Give every weight a value, zero-initialised layers too, of a size that keeps images alive."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            spread = p[0].numel() ** -0.5 if p.ndim > 1 else 0.2
            p.copy_(torch.randn(p.shape, generator=generator) * spread + (p.ndim == 1) * 0.5)
    return network.eval()


def a_model(
    sizes=None,
    *,
    network="unet",
    classes=0,
    shape=(1, 16, 8),
    schedule="cosine",
    T=1000,
    scaling=None,
    prediction="v",
    variance="beta-tilde",
    **sampling,
):
    experiment = Experiment(
        "test",
        DataConfig("mnist"),
        NetworkConfig(network, dict(SIZES if sizes is None else sizes)),
        ScheduleConfig(schedule, T),
        ObjectiveConfig(prediction=prediction, variance=variance),
        sampling=SamplingConfig(**sampling),
    )
    names = tuple("abcdefghij"[:classes])
    return Model(
        experiment=experiment,
        network=awake(build_network(experiment, shape, classes)),
        schedule=build_schedule(experiment.schedule),
        scaling=scaling or Scaling(),
        shape=shape,
        classes=names,
        class_counts=(5,) * classes,
        meta={
            "experiment": experiment.to_dict(),
            "shape": list(shape),
            "classes": list(names),
            "class_counts": [5] * classes,
            "scaling": Scaling().to_config(),
        },
        device=torch.device("cpu"),
    )


def last(model, n=3, labels=None, **settings):
    """Return our images before rounding, float [n,C,H,W]."""
    kept = []
    model.sample(n, labels=labels, watch=lambda _, state: kept.append(state.x), **settings)
    return kept[-1]


def start(model, n=3):
    return start_noise(0, torch.arange(n), model.shape)


# Export ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("prediction", ["v", "eps", "x0"])
def test_ddim_pipeline_gives_the_same_images(tmp_path, monkeypatch, prediction, schedule, clip):
    model = a_model(LITTLE, prediction=prediction, schedule=schedule, clip=clip, steps=20)
    write_diffusers(model, tmp_path)
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path)
    name = "diffusers.pipelines.ddim.pipeline_ddim.randn_tensor"
    monkeypatch.setattr(name, lambda *_, **__: start(model))
    theirs = pipeline(
        batch_size=3, num_inference_steps=20, use_clipped_model_output=clip, output_type="np"
    ).images
    ours = (last(model) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert float(ours.std()) > 0.02
    assert_close(torch.from_numpy(theirs), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variance", ["beta", "beta-tilde", "learned"])
def test_ddpm_pipeline_gives_the_same_images(tmp_path, monkeypatch, variance):
    from pocketddpm.diffusion.sampling import step_noise

    learned = "learned" if variance == "learned" else "beta-tilde"
    options = {"sampler": "ddpm", "steps": 25, "options": {"variance": variance}}
    # All of T steps: with fewer, diffusers' wider variances add noise to the clean image as well.
    model = a_model(LITTLE, variance=learned, prediction="eps", schedule="linear", T=25, **options)
    write_diffusers(model, tmp_path)
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    noise, step = step_noise(0, torch.arange(3), model.shape), iter(range(99))
    monkeypatch.setattr(
        "diffusers.pipelines.ddpm.pipeline_ddpm.randn_tensor", lambda *_, **__: start(model)
    )
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise(next(step))
    )
    theirs = pipeline(batch_size=3, num_inference_steps=25, output_type="np").images
    ours = (last(model) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert float(ours.std()) > 0.02
    assert_close(torch.from_numpy(theirs), ours, rtol=0, atol=1e-4)


@pytest.mark.parametrize("attention", [0, 1, 3])
def test_class_conditional_parts_give_the_same_images(tmp_path, attention):
    model = a_model({**SIZES, "attention": attention}, classes=4, steps=10)
    write_diffusers(model, tmp_path)
    assert not (tmp_path / "model_index.json").exists()
    unet = diffusers.UNet2DModel.from_pretrained(tmp_path, subfolder="unet").eval()
    scheduler = diffusers.DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    scheduler.set_timesteps(10)
    x, labels = start(model, 4), torch.arange(4)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output, plain = unet(x, t, labels).sample, unet(x, t, torch.full((4,), 4)).sample
            output = plain + 2 * (output - plain)
            x = scheduler.step(output, t, x, use_clipped_model_output=True).prev_sample
    ours = last(model, 4, labels.numpy(), guidance=2.0)
    assert_close(x, ours, rtol=0, atol=1e-4)
    assert float((ours - last(model, 4, labels.numpy(), guidance=1.0)).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [{}, {"classes": 3}, {"sampler": "ddpm"}, {"sampler": "dpmpp", "classes": 2}],
    ids=["pipeline", "classes", "ddpm", "other-sampler"],
)
def test_the_readme_draws(tmp_path, monkeypatch, settings):
    write_diffusers(a_model(steps=2, **settings), tmp_path)
    text = (tmp_path / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 18
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(code, {})
    assert list(tmp_path.glob("sample*.png"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": {**SIZES, "patch": 2}}, "patch=2.*patch=1"),
        ({"network": "small-unet", "sizes": {}, "shape": (1, 16, 16)}, "small-unet.*ddpm-unet"),
        ({"shape": (1, 17, 8)}, "17x8.* 4"),
        ({"prediction": "edm"}, "'edm'.*eps, x0 and v"),
        ({"scaling": Scaling(0.0, 1.0)}, r"-1\.\.1.* 0\.\.1"),
        ({"scaling": Scaling(mean=torch.zeros(1, 16, 8))}, "mean image"),
    ],
    ids=["patch", "network", "padding", "prediction", "scaling", "mean"],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        write_diffusers(a_model(**settings), tmp_path)
    assert not list(tmp_path.iterdir())


# Import ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["flat-bin", "folders-safetensors"])
def test_the_layout_of_ddpm_cifar10_32(tmp_path, layout):
    theirs = awake(diffusers.UNet2DModel(**CIFAR))
    assert sum(p.numel() for p in theirs.parameters()) == 35_746_307
    scheduler = diffusers.DDPMScheduler(beta_schedule="linear", clip_sample=True)
    flat = layout == "flat-bin"
    theirs.save_pretrained(tmp_path if flat else tmp_path / "unet", safe_serialization=not flat)
    scheduler.save_pretrained(tmp_path if flat else tmp_path / "scheduler")
    if flat:  # as published in 2022, with the old names of the attention
        file = tmp_path / "diffusion_pytorch_model.bin"
        old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        tensors = torch.load(file, weights_only=True)
        for new, name in old.items():
            tensors = {k.replace(f".{new}.", f".{name}."): v for k, v in tensors.items()}
        torch.save(tensors, file)
    checkpoint = read_diffusers(tmp_path)
    assert len(checkpoint.tensors) == 328
    assert sum(t.numel() for t in checkpoint.tensors.values()) == 35_746_307
    save_checkpoint(tmp_path / "mine" / "last.safetensors", checkpoint)
    model = load(tmp_path / "mine")
    x, t = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)), [0, 731]
    with torch.no_grad():
        wanted = theirs(x, torch.tensor(t)).sample
        got = model.network(x, torch.tensor(t) + 1.0, None)
    assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    assert_close(
        model.schedule.alpha_bar[1:].float(), scheduler.alphas_cumprod, rtol=1e-5, atol=1e-8
    )
    assert model.experiment.sampling.sampler == "ddpm"
    assert model.experiment.sampling.steps == 1000


@pytest.mark.parametrize("classes", [0, 3])
def test_there_and_back_is_the_same_model(tmp_path, classes):
    model = a_model(classes=classes, steps=5)
    write_diffusers(model, tmp_path)
    back = tmp_path / "back"
    main(["import", str(tmp_path), "--from", "diffusers", "--out", str(back)])
    again = load(back)
    assert again.classes == model.classes
    assert again.class_counts == model.class_counts
    assert again.experiment.data.name == "mnist"
    assert again.experiment.schedule == model.experiment.schedule
    labels = torch.tensor([0, 2, 1]).numpy() if classes else None
    settings = {"labels": labels, "sampler": "ddim", "steps": 5}
    assert_close(last(again, **settings), last(model, **settings), rtol=0, atol=1e-5)
    # And out again, from the other network.
    write_diffusers(again, tmp_path / "twice")
    assert as_ddpm_unet(again)[0] == as_ddpm_unet(model)[0]
    first, second = (
        json.loads((d / "unet" / "config.json").read_text()) for d in (tmp_path, tmp_path / "twice")
    )
    assert first == second


def test_labels_of_strangers_get_a_row_for_no_label(tmp_path):
    small = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [8, 16],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
        "num_class_embeds": 5,
    }
    theirs = awake(diffusers.UNet2DModel(**small))
    theirs.save_pretrained(tmp_path / "unet")
    diffusers.DDIMScheduler(prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")
    checkpoint = read_diffusers(tmp_path)
    assert checkpoint.meta["classes"] == list("01234")
    save_checkpoint(tmp_path / "last.safetensors", checkpoint)
    model = load(tmp_path)
    x, y = torch.ones(2, 1, 8, 8), torch.tensor([4, 0])
    with torch.no_grad():
        wanted = theirs(x, torch.tensor([9, 9]), y).sample
        assert_close(model.network(x, torch.tensor([10.0, 10.0]), y), wanted, rtol=1e-4, atol=1e-4)
    assert model.sample(2, labels=y.numpy(), steps=2).images.shape == (2, 1, 8, 8)
    assert (model.experiment.sampling.sampler, model.experiment.sampling.steps) == ("ddim", 50)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"beta_schedule": "linear"}, "linear"),
        ({"beta_schedule": "linear", "beta_start": 1e-3, "num_train_timesteps": 50}, "linear"),
        ({"beta_schedule": "scaled_linear"}, "scaled-linear"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "cosine"),
        ({"beta_schedule": "sigmoid"}, "sigmoid-beta"),
        ({"beta_schedule": "linear", "rescale_betas_zero_snr": True}, "linear"),
    ],
    ids=["linear", "linear-50", "scaled", "cosine", "sigmoid", "zero-snr"],
)
def test_schedules_are_recognised(tmp_path, theirs, ours):
    scheduler = diffusers.DDPMScheduler(**theirs)
    config = _schedule(_typed(SchedulerFile, dict(scheduler.config), Path("x")), Path("x"))
    assert config.name == ours
    mine = build_schedule(config).alpha_bar[1:].float()
    assert_close(mine, scheduler.alphas_cumprod, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("unet", {"act_fn": "gelu"}, "act_fn.*'gelu'.*silu"),
        ("unet", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel.*UNet2DModel"),
        (
            "unet",
            {"down_block_types": ["SkipDownBlock2D"] * 3},
            "SkipDownBlock2D.*DownBlock2D and AttnDownBlock2D",
        ),
        ("unet", {"attn_norm_num_groups": None}, "no groups.*attn_norm_num_groups"),
        ("unet", {"sample_size": None}, "sample_size"),
        ("unet", {"block_out_channels": [8, 16, 32]}, "parameters than .* weights"),
        ("scheduler", {"variance_type": "learned"}, "variance_type.*'learned'.*learned_range"),
        (
            "scheduler",
            {"beta_schedule": "x", "trained_betas": None},
            "beta_schedule.*'x'.*squaredcos_cap_v2",
        ),
        ("scheduler", {"trained_betas": [0.1, 0.5]}, "trained_betas.*plug-in"),
    ],
    ids=str,
)
def test_what_cannot_be_imported_is_refused(tmp_path, capsys, file, change, message):
    write_diffusers(a_model(), tmp_path)
    name = "config.json" if file == "unet" else "scheduler_config.json"
    path = tmp_path / file / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(SystemExit) as stop:
        main(["import", str(tmp_path), "--from", "diffusers", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_damaged_weights_are_refused(tmp_path):
    write_diffusers(a_model(), tmp_path)
    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model"):
        read_diffusers(tmp_path)
    weights.unlink()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model"):
        read_diffusers(tmp_path)
    with pytest.raises(CheckpointError, match="nothing"):
        read_diffusers(tmp_path / "nothing")


def changed(folder, file, **values):
    """Change entries of one of the files of an export."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of a small model, which no test changes."""
    folder = tmp_path_factory.mktemp("exported")
    write_diffusers(a_model(LITTLE, sampler="ddim", steps=5), folder)
    return folder


REFUSED_SCHEDULERS = [
    name
    for name in dir(diffusers)
    if name.endswith("Scheduler") and name not in SCHEDULERS and "Flax" not in name
]


@pytest.mark.parametrize("name", [*REFUSED_SCHEDULERS, "NobodysScheduler"])
def test_other_processes_are_refused_by_name(tmp_path, exported, name):
    folder = shutil.copytree(exported, tmp_path / "copy")
    changed(folder, "scheduler/scheduler_config.json", _class_name=name)
    with pytest.raises(CheckpointError, match=rf"{name}.*DDPMScheduler.*evaluate") as caught:
        read_diffusers(folder)
    assert "scheduler_config.json" in str(caught.value)


def test_the_refused_schedulers_are_those_of_other_processes():
    others = {"FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "ScoreSdeVeScheduler",
              "CMStochasticIterativeScheduler", "KarrasVeScheduler", "LCMScheduler"}  # fmt: skip
    assert others <= set(REFUSED_SCHEDULERS)
    assert all(hasattr(diffusers, name) for name in SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_every_scheduler_of_the_process_is_read_with_its_own_defaults(tmp_path, exported, name):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / "pocketddpm.json").unlink()
    theirs = getattr(diffusers, name)(beta_schedule="linear")
    theirs.save_pretrained(folder / "scheduler")
    plan = from_dict(Experiment, read_diffusers(folder).meta["experiment"]).sampling
    assert plan.spacing == theirs.config.get("timestep_spacing", "linspace")
    assert plan.clip == theirs.config.get("clip_sample", False)
    assert plan.sampler == SCHEDULERS[name][0]
    assert plan.sampler in SAMPLERS.names()
    for spacing in ("linspace", "trailing", "leading"):
        changed(folder, "scheduler/scheduler_config.json", timestep_spacing=spacing)
        assert read_diffusers(folder).meta["experiment"]["sampling"]["spacing"] == spacing
    changed(folder, "scheduler/scheduler_config.json", use_karras_sigmas=True)
    assert read_diffusers(folder).meta["experiment"]["sampling"]["spacing"] == "karras"


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]},
        {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]},
        {"_class_name": "DDPMPipeline", "vae": ["diffusers", "AutoencoderKL"]},
        {"_class_name": "ScoreSdeVePipeline"},
        {"_class_name": "ConsistencyModelPipeline"},
        {"_class_name": "KarrasVePipeline"},
    ],
    ids=lambda index: index["_class_name"],
)
def test_other_pipelines_are_refused_by_name(tmp_path, exported, index):
    folder = shutil.copytree(exported, tmp_path / "copy")
    changed(folder, "model_index.json", **index)
    names = [index["_class_name"], *(k for k in index if k[0] != "_"), "DDPMPipeline", "evaluate"]
    with pytest.raises(CheckpointError, match="model_index.*" + ".*".join(names)):
        read_diffusers(folder)


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"sampler": "ddim", "steps": 7}, "DDIM"),
        ({"sampler": "ddim", "spacing": "leading", "clip": False}, "DDIM"),
        ({"sampler": "ddpm", "steps": 20, "options": {"variance": "beta"}}, "DDPM"),
        ({"sampler": "dpmpp", "steps": 9, "spacing": "karras"}, "DDIM"),
    ],
    ids=str,
)
@pytest.mark.parametrize("classes", [0, 2])
def test_our_own_plan_comes_back(tmp_path, settings, kind, classes):
    model = a_model(LITTLE, classes=classes, **settings)
    write_diffusers(model, tmp_path)
    stored = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())
    assert stored["_class_name"] == f"{kind}Scheduler"
    if not classes:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path)
        assert type(pipeline).__name__ == f"{kind}Pipeline"
    back = from_dict(Experiment, read_diffusers(tmp_path).meta["experiment"])
    assert back.sampling == model.experiment.sampling
    # What somebody has changed since counts.
    changed(tmp_path, "scheduler/scheduler_config.json", timestep_spacing="linspace")
    assert read_diffusers(tmp_path).meta["experiment"]["sampling"]["spacing"] == "linspace"
    diffusers.EulerDiscreteScheduler(beta_schedule="linear").save_pretrained(tmp_path / "scheduler")
    assert read_diffusers(tmp_path).meta["experiment"]["sampling"]["sampler"] == "euler"


def test_class_names_of_a_stranger(tmp_path):
    model = a_model(classes=2)
    write_diffusers(model, tmp_path)
    (tmp_path / "pocketddpm.json").unlink()
    index = {"_class_name": "DDPMPipeline", "id2label": {"0": "cat", "1": "dog"}}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert read_diffusers(tmp_path).meta["classes"] == ["cat", "dog"]
    (tmp_path / "model_index.json").unlink()
    assert read_diffusers(tmp_path).meta["classes"] == ["0", "1", "2"]


# A walk over every kind of broken file -----------------------------------------------------------

FILES = (
    "model_index.json",
    "unet/config.json",
    "scheduler/scheduler_config.json",
    "pocketddpm.json",
    "unet/diffusion_pytorch_model.safetensors",
)
BROKEN = {
    "empty": b"",
    "text": b"this is a text file\n",
    "list": b"[1, 2, 3]",
    "number": b"7",
    "not utf-8": b"\xff\xfe{}",
    "deep": b"[" * 100_000,
    "half": b'{"_class_name": "UNet2DM',
    "zip": b"PK\x03\x04" + bytes(100),
    "pickle": b"cos\nsystem\n(S'true'\ntR.",
    "html": b"<html>sign in</html>",
}


def one_line(folder):
    """Read the folder; it is refused in one line, or it is read."""
    try:
        return read_diffusers(folder)
    except DDPMError as error:
        assert "\n" not in str(error) and str(folder) in str(error), error
        return None


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("file", FILES)
def test_every_kind_of_broken_file_is_one_line(tmp_path, exported, file, kind):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / file).write_bytes(BROKEN[kind])
    with pytest.raises(CheckpointError, match=re.escape(str(folder / file))) as caught:
        read_diffusers(folder)
    assert "\n" not in str(caught.value)


def test_damaged_weights_under_the_older_name_are_one_line(tmp_path, exported):
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / FILES[-1]).unlink()
    path = folder / "unet" / "diffusion_pytorch_model.bin"
    good = tmp_path / "good.bin"
    torch.save({"a": torch.ones(3)}, good)
    whole = good.read_bytes()
    torch.save({"state_dict": {"a": torch.ones(3)}}, tmp_path / "nested.bin")
    torch.save({"a": torch.ones(3, dtype=torch.int64)}, tmp_path / "whole.bin")
    torch.save([torch.ones(3)], tmp_path / "list.bin")
    contents = [*BROKEN.values(), *(whole[:n] for n in range(0, len(whole), 97)), whole]
    contents += [(tmp_path / f"{name}.bin").read_bytes() for name in ("nested", "whole", "list")]
    for content in contents:
        path.write_bytes(content)
        assert one_line(folder) is None


def test_cut_weights_are_one_line(tmp_path, exported):
    folder = shutil.copytree(exported, tmp_path / "copy")
    whole = (folder / FILES[-1]).read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        (folder / FILES[-1]).write_bytes(whole[:length])
        assert one_line(folder) is None


VALUES = [None, True, "x", "", -1, 0, 1, 7, 3.5, 1e300, 10**12, [], [3], ["x"], {}, {"a": 1}, "NaN"]


@pytest.mark.parametrize(
    ("file", "kind"),
    [("unet/config.json", UNetFile), ("scheduler/scheduler_config.json", SchedulerFile)],
)
def test_every_entry_with_every_kind_of_value(tmp_path, exported, file, kind):
    """Each entry that is read, each with values of all kinds: read, or refused in one line."""
    folder = shutil.copytree(exported, tmp_path / "copy")
    whole, refused = (folder / file).read_text(), 0
    for name in ["_class_name", *(f.name for f in fields(kind))]:
        for value in VALUES:
            (folder / file).write_text(json.dumps({**json.loads(whole), name: value}))
            refused += one_line(folder) is None
    assert refused > 8 * len(fields(kind))


def test_every_entry_of_our_own_file_with_every_kind_of_value(tmp_path, exported):
    folder = shutil.copytree(exported, tmp_path / "copy")
    path = folder / "pocketddpm.json"
    whole = json.loads(path.read_text())
    for name in ("experiment", "classes", "class_counts", "scaling", "shape"):
        for value in VALUES:
            path.write_text(json.dumps({**whole, name: value}))
            one_line(folder)
    for part in ("data", "sampling"):
        for value in VALUES:
            changed_part = {**whole["experiment"], part: value}
            path.write_text(json.dumps({**whole, "experiment": changed_part}))
            one_line(folder)


# The network -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": ()}, "widths"),
        ({"widths": (9, 12)}, "9, 12|9"),
        ({"attention": (2,)}, r"2.*0\.\.1"),
        ({"groups": 3}, "groups = 3"),
        ({"heads": 3}, "heads = 3"),
        ({"head_width": 5}, "head_width = 5"),
        ({"padding": 2}, "padding.* 1, got 2"),
        ({"widths": (8, 8, 8, 8, 8)}, "16.*8x8"),
    ],
    ids=str,
)
def test_impossible_ddpm_unets_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        config = from_dict(ddpm_unet.Config, {"widths": (8, 16), "groups": 4, **change})
        ddpm_unet.build(config, channels=1, out_channels=1, height=8, width=8, classes=0)
