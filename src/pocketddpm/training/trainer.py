"""The trainer: a generator of `StepResult`. It knows nothing of sampling, pictures or files.

The state of a run is the weights, their average, the optimiser, what the objective remembers of its
losses (if it does), its health and the number of images seen: data order, noise, times and learning
rate are functions of these, which is what makes resuming exact.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pocketddpm.config import Experiment
from pocketddpm.data.augmentation import WEIGHT
from pocketddpm.data.batches import Loader, mix
from pocketddpm.data.scaling import Scaling
from pocketddpm.diffusion.objective import Objective
from pocketddpm.diffusion.prediction import autocast
from pocketddpm.distributed import count, gathered, mean, parallel, rank
from pocketddpm.errors import CheckpointError, ConfigError
from pocketddpm.training.ema import ema_decay, half_lives, update_ema
from pocketddpm.training.health import Health, LossScale
from pocketddpm.training.optimiser import build_optimisers, load_optimisers, optimiser_tensors
from pocketddpm.training.plan import Plan, learning_rate, plan_for

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
READ_EVERY = 50  # steps between reads of losses from a device other than the CPU
WARMUP_STEPS = 3  # timed before a budget in minutes is fixed, after one untimed step
OFF = 1.1  # a run in minutes is planned anew, once, when it is this much too long or too short


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step did.

    step, images_seen, epoch: where the run is now. loss: mean over the global batch, a scalar
    tensor on the device (reading it waits for the device). grad_norm: likewise, before clipping.
    lr: the rate used. seconds: spent on the run so far. epoch_loss: mean loss of the epoch that
    this step completed, or None. event: lines on a change of the plan, and on steps that were
    skipped since the last read.
    """

    step: int
    images_seen: int
    epoch: float
    loss: Tensor
    grad_norm: Tensor
    lr: float
    seconds: float
    epoch_loss: float | None = None
    event: str | None = None


class TrainerState(NamedTuple):
    """What an exact resumption needs.

    tensors: by part: 'model', its averages ('ema', 'ema-3000'), 'optimizer' and 'objective'; the
    last two may be missing. counters: the rest, as plain JSON.
    """

    tensors: dict[str, dict[str, Tensor]]
    counters: dict[str, Any]


class Trainer:
    """One run. Use `steps()` to train and `state()` to save at any point between steps."""

    def __init__(
        self,
        experiment: Experiment,
        network: nn.Module,
        objective: Objective,
        loader: Loader,
        scaling: Scaling,
    ) -> None:
        """Move the network to the loader's device, and build its optimisers and its average.

        Raises ConfigError when the batch size does not divide by processes times accumulation.
        """
        self.experiment = experiment
        self.objective = objective
        self.loader = loader
        self.device = loader.device
        self.scaling = scaling
        config = experiment.training
        if config.batch_size % (count() * config.accumulate):
            raise ConfigError(
                f"--batch-size {config.batch_size} must divide by processes x accumulation = "
                f"{count()} x {config.accumulate}"
            )
        # torch's own annotations leave memory_format out.
        self.network = network.to(self.device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        weights = self.network.state_dict()
        self.averages = {
            part: {k: v.detach().clone() for k, v in weights.items()}
            for part in half_lives(experiment.optimiser)
        }
        self.optimisers = build_optimisers(experiment.optimiser, self.network)
        self.wrapped = parallel(self.network, self.device)
        self.health = Health.start(config.precision)
        self._loss_scale = LossScale(self.health, self.device)
        self.images_seen = 0
        self.seconds = 0.0
        self.ending = 0.0  # images whose training takes as long as what follows the last step
        self.plan: Plan | None = None
        self.best_loss: float | None = None
        self._epoch_sum, self._epoch_steps = 0.0, 0
        self._unread: list[Tensor] = []  # loss and gradient norm of each step since the last read
        self._events: list[str] = []  # lines for the next StepResult

    @property
    def step(self) -> int:
        """Optimiser steps taken or skipped."""
        return self.images_seen // self.experiment.training.batch_size

    @property
    def is_done(self) -> bool:
        """Whether the plan's last step has been taken."""
        return self.plan is not None and self.images_seen >= self.plan.total

    def make_plan(self, pauses: float = 0.0) -> Plan:
        """Fix the length of the run; for a budget in minutes, measure the speed first.

        The measurement is part of those minutes, and so is what an earlier session has used, and
        `ending`. pauses: what comes between steps, as a share of training.
        """
        config = self.experiment.training
        if config.minutes is None:
            self.plan = plan_for(config, self.loader.epoch_images)
        else:
            started = time.monotonic()
            rate = self._measure_rate()
            self.seconds += time.monotonic() - started
            left = (config.minutes * 60 - self.seconds) * rate - self.ending
            left = max(0, int(left / (1 + pauses)))
            steps = max(1, (self.images_seen + left) // config.batch_size)
            # Clocks differ: all processes follow the first one's.
            self.plan = Plan(gathered(steps * config.batch_size)[0])
        return self.plan

    def steps(self) -> Iterator[StepResult]:
        """Train to the end of the plan, one `StepResult` per optimiser step."""
        plan = self.plan or self.make_plan()
        epoch_images = self.loader.epoch_images
        mark = time.monotonic()
        while self.images_seen < plan.total:
            lr = learning_rate(self.images_seen, plan, self.experiment.optimiser)
            before = self.images_seen // epoch_images
            loss, grad_norm = self._step(lr, plan.run_fraction(self.images_seen))
            self._unread.append(torch.stack([loss, grad_norm]))
            over = self.images_seen // epoch_images > before or self.images_seen >= plan.total
            # What lies on the CPU is read without waiting.
            due = over or self.device.type == "cpu" or len(self._unread) >= READ_EVERY
            if due:
                self._read()
            epoch_loss = self._end_epoch() if over else None
            # From yield to yield: what the caller does with its turn counts as well.
            mark, last = time.monotonic(), mark
            self.seconds += mark - last
            self._keep_to_minutes(plan)
            plan = self.plan or plan
            events, self._events = self._events, []
            yield StepResult(
                step=self.step,
                images_seen=self.images_seen,
                epoch=self.images_seen / epoch_images,
                loss=loss,
                grad_norm=grad_norm,
                lr=lr,
                seconds=self.seconds,
                epoch_loss=epoch_loss,
                event="\n".join(events) or None,
            )

    def _read(self) -> None:
        """Count the steps since the last read. Waits for the device.

        Raises DDPMError when too many were skipped.
        """
        rows = torch.stack(self._unread).tolist() if self._unread else []
        for k, (loss, grad_norm) in enumerate(rows):
            step = self.step - len(rows) + k + 1
            taken = isfinite(loss) and isfinite(grad_norm)
            self.health.count(taken)
            if taken:
                self._epoch_sum += loss
                self._epoch_steps += 1
            else:
                self.health.check(step)
                self._events += self.health.events(step)
        self._unread.clear()

    def _end_epoch(self) -> float | None:
        mean = self._epoch_sum / self._epoch_steps if self._epoch_steps else None
        self._epoch_sum, self._epoch_steps = 0.0, 0
        return mean

    def _step(self, lr: float, run_fraction: float) -> tuple[Tensor, Tensor]:
        """Take an optimiser step if its loss and gradient are finite, which the device decides.

        Return its loss and gradient norm; nothing waits for the device.
        """
        config, optimiser = self.experiment.training, self.experiment.optimiser
        loss, stream_index, losses = self._gradient(run_fraction)
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        if config.precision == "fp16":
            for parameter in parameters:
                parameter.grad /= self._loss_scale.scale  # type: ignore[operator]
        grad_norm = nn.utils.clip_grad_norm_(parameters, optimiser.grad_clip or float("inf"))
        taken = torch.isfinite(loss) & torch.isfinite(grad_norm)
        for each in self.optimisers:
            for group in each.param_groups:
                group["lr"] = lr
            each.found_inf = (~taken).float()  # pyright: ignore[reportAttributeAccessIssue]
            each.step()
            each.zero_grad()
        if config.precision == "fp16":
            self._loss_scale.count(taken)
        # Where the times learn, their losses travel to the CPU at every step.
        if self.objective.times.learns and bool(taken):
            self.objective.observe(stream_index, losses, config.seed, run_fraction, _joined)
        self.images_seen += config.batch_size
        for part, half_life in half_lives(optimiser).items():
            decay = ema_decay(self.images_seen, config.batch_size, half_life, optimiser.ema_ramp)
            update_ema(self.averages[part], self.network.state_dict(), decay, taken)
        return loss, grad_norm

    def _gradient(self, run_fraction: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
        """Accumulate the gradient of the next global batch.

        Return its mean loss, and the stream index and the loss of each of this process's images.
        """
        config = self.experiment.training
        share = config.batch_size // (count() * config.accumulate)
        total = torch.zeros((), device=self.device)
        seen: list[tuple[Tensor, Tensor]] = []
        for part in range(config.accumulate):
            start = self.images_seen + (part * count() + rank()) * share
            batch = self.loader.batch(start, share, then=start + count() * share)
            last = part == config.accumulate - 1
            with self._no_sync(last), _seeded(mix(config.seed, "dropout", start), self.device):
                with autocast(self.device, AUTOCAST.get(config.precision)):
                    losses = self.objective(
                        self.wrapped,
                        self.scaling.to_model(batch.images),
                        batch.labels,
                        batch.stream_index,
                        config.seed,
                        run_fraction,
                        batch.augmentation,
                    )
                    loss = losses.mean() / config.accumulate
                (loss * self._loss_scale.scale).backward()
            total += loss.detach()
            seen.append((batch.stream_index, losses.detach()))
        stream_index, each = (torch.cat(parts) for parts in zip(*seen, strict=True))
        return mean(total), stream_index, each

    def _no_sync(self, last: bool) -> AbstractContextManager[Any]:
        if last or not isinstance(self.wrapped, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def _measure_rate(self) -> float:
        """Return images per second of forward and backward passes; their gradients are dropped."""
        self._gradient()
        started = time.monotonic()
        for _ in range(WARMUP_STEPS):
            self._gradient()
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        slowest = max(gathered(time.monotonic() - started))
        for each in self.optimisers:
            each.zero_grad()
        return self.experiment.training.batch_size * WARMUP_STEPS / slowest

    def _keep_to_minutes(self, plan: Plan) -> None:
        """Move the end, once, when the machine proves slower or faster than it was measured."""
        minutes = self.experiment.training.minutes
        if minutes is None or plan.event or count() > 1:
            return
        done = self.images_seen / plan.total
        budget = minutes * 60 - self.ending * self.seconds / self.images_seen
        # Early enough to matter, late enough to know.
        if done >= 1 or (self.seconds < 0.3 * budget and done < 0.5):
            return
        if 1 / OFF <= self.seconds / done / budget <= OFF:
            return
        left = max(0.0, budget - self.seconds)
        batch = self.experiment.training.batch_size
        total = self.images_seen + int(left * self.images_seen / self.seconds) // batch * batch
        self.plan = plan.moved(self.images_seen, total)
        self._events.append(
            f"the speed is not what was measured: the end moves from {plan.total} to "
            f"{self.plan.total} images, to keep to {minutes:g} minutes"
        )

    def state(self, *, resumable: bool = True) -> TrainerState:
        """Return all that resuming needs; resumable=False leaves optimiser and objective out.

        Waits for the device. Raises DDPMError when too many steps were skipped.
        """
        self._read()
        tensors = {"model": dict(self.network.state_dict()), **self.averages}
        if resumable:
            tensors["optimizer"] = optimiser_tensors(self.optimisers)
            tensors["objective"] = self.objective.state()
        counters = {
            "step": self.step,
            "images_seen": self.images_seen,
            "seconds": self.seconds,
            "plan": asdict(self.plan) if self.plan else None,
            "health": asdict(self.health),
            "best_loss": self.best_loss,
            "epoch_sum": self._epoch_sum,
            "epoch_steps": self._epoch_steps,
        }
        return TrainerState(tensors, counters)

    def init_from(self, weights: Mapping[str, Tensor]) -> None:
        """Take a model's weights as first ones, and the model as a teacher where one is followed.

        Whether one of them is told of augmentation, and the other is not, makes no difference.
        Raises CheckpointError if they do not fit.
        """
        own = self.network.state_dict()
        weights = {name: v for name, v in weights.items() if name != WEIGHT or name in own}
        weights |= {name: own[name] for name in (WEIGHT,) if name in own and name not in weights}
        here = {name: tuple(v.shape) for name, v in own.items()}
        there = {name: tuple(v.shape) for name, v in weights.items()}
        if here != there:
            name = next(n for n in [*here, *there] if here.get(n) != there.get(n))
            raise CheckpointError(
                f"the model to begin with does not fit this network: {name} is "
                f"{there.get(name, 'missing')} there and {here.get(name, 'missing')} here; "
                "give the same --network and --net, and images with as many channels and, for a "
                "network that counts on it, of the same size"
            )
        self.network.load_state_dict(weights)
        for average in self.averages.values():
            for k, v in self.network.state_dict().items():
                average[k].copy_(v)
        self.objective = self.objective.prepare(self.network)

    def restore(self, state: TrainerState) -> None:
        """Continue from a state of the same experiment; CheckpointError if it does not fit."""
        try:
            self._restore(*state)
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint does not fit this run: {error}") from error

    def _restore(self, tensors: dict[str, dict[str, Tensor]], run: dict[str, Any]) -> None:
        moments = tensors.get("optimizer", {})
        if not moments and run["step"] > run.get("health", {}).get("skipped", 0):
            raise CheckpointError(
                "this checkpoint holds weights only (a best or exported one) and cannot be "
                "resumed; use last.safetensors"
            )
        self.network.load_state_dict(tensors["model"])
        for part, average in self.averages.items():
            for k, v in tensors.get(part, {}).items():
                average[k].copy_(v)
        load_optimisers(self.optimisers, moments)
        self.objective = self.objective.load(tensors.get("objective", {}), self.network)
        self.health = Health.from_dict(run.get("health"), self.experiment.training.precision)
        self._loss_scale = LossScale(self.health, self.device)
        self.images_seen = int(run["images_seen"])
        self.seconds = float(run["seconds"])
        self.plan = Plan.from_dict(run["plan"]) if run["plan"] else None
        self.best_loss = run["best_loss"]
        self._epoch_sum = float(run["epoch_sum"])
        self._epoch_steps = int(run["epoch_steps"])


def _joined(mine: Tensor) -> Tensor:
    """Return the tensors of all processes as one, on the CPU."""
    return torch.cat(gathered(mine.cpu()))


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, which dropout draws from, and put them back afterwards."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    elif device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
