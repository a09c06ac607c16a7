"""Trains the general extractor's network on the classes of the public images."""
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import general_images
from general_net import Network, means

BATCH = 128
PEAK_RATE = 0.1
WARM_UP = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
AVERAGING = 0.999
HIDDEN = 512
SMALL_SIDE = 24
SMALL_SHARE = 0.6
HELD_OUT = 20
RECALIBRATION_IMAGES = 8000
RECALIBRATION_BATCH = 250


@dataclass
class Plan:
    """What a run is: a checkpoint of another plan is refused."""

    epochs: int
    seed: int

    def side(self, epoch):
        """Small images first: they cost half, and most of what is learnt is learnt on them."""
        return SMALL_SIDE if epoch < round(SMALL_SHARE * self.epochs) else general_images.SIDE


class Classifier(nn.Module):
    """The network under the head it is trained with. The head is thrown away (see the model card on why it is deep)."""

    def __init__(self, classes):
        super().__init__()
        self.network = Network()
        self.head = nn.Sequential(
            nn.BatchNorm1d(self.network.features, affine=False),
            nn.Linear(self.network.features, HIDDEN, bias=False),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, classes),
        )

    def forward(self, images):
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            ends = self.network(images)
        return self.head(means(ends[1:]))


def train(images, labels, classes, pixel_scale, plan, checkpoint, resume=True):
    """Runs the plan to its end, or goes on where `checkpoint` stopped. Leaves the averaged network in `checkpoint`."""
    training, held_out = split(labels)
    run = Run(classes, plan, steps=plan.epochs * (len(training) // BATCH))
    if resume and Path(checkpoint).exists():
        run.restore(checkpoint)
        print(f"going on after epoch {run.epoch} of {plan.epochs}", flush=True)
    while run.epoch < plan.epochs:
        began = time.monotonic()
        loss, rate = one_epoch(run, images, labels, training, pixel_scale)
        accuracy = held_out_accuracy(run.averaged, images[held_out], labels[held_out], pixel_scale)
        run.history.append({
            "epoch": run.epoch + 1,
            "side": plan.side(run.epoch),
            "rate": round(rate, 5),
            "loss": round(loss, 4),
            "held_out": round(accuracy, 4),
            "seconds": round(time.monotonic() - began),
        })
        run.epoch += 1
        run.save(checkpoint)
        print(json.dumps(run.history[-1]), flush=True)


class Run:
    """Everything that a checkpoint holds."""

    def __init__(self, classes, plan, steps):
        torch.manual_seed(plan.seed)
        self.plan, self.steps, self.epoch, self.history = plan, steps, 0, []
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.model = Classifier(classes).to(memory_format=torch.channels_last)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGING), use_buffers=True)
        weights = [p for p in self.model.parameters() if p.ndim > 1]
        scales = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": weights, "weight_decay": WEIGHT_DECAY}, {"params": scales, "weight_decay": 0.0}]
        self.optimiser = torch.optim.SGD(groups, lr=PEAK_RATE, momentum=MOMENTUM, nesterov=True)

    def set_rate(self, step):
        """Linear warm-up, then half a cosine down to zero."""
        progress = step / self.steps
        if progress < WARM_UP:
            rate = PEAK_RATE * progress / WARM_UP
        else:
            rate = PEAK_RATE * 0.5 * (1.0 + math.cos(math.pi * (progress - WARM_UP) / (1.0 - WARM_UP)))
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return rate

    def save(self, path):
        """Writes beside the checkpoint and renames, so that a run cut short leaves the one before."""
        state = {
            "plan": vars(self.plan),
            "epoch": self.epoch,
            "history": self.history,
            "generator": self.generator.get_state(),
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        torch.save(state, part)
        os.replace(part, path)

    def restore(self, path):
        state = torch.load(path, weights_only=True)
        if state["plan"] != vars(self.plan):
            raise ValueError(f"{path} belongs to the run {state['plan']}, not {vars(self.plan)}; name another file")
        self.epoch, self.history = state["epoch"], state["history"]
        self.generator.set_state(state["generator"])
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])


def split(labels):
    """Indices of the training images, and of the last HELD_OUT of each class, which only measure progress."""
    held_out = torch.cat([torch.nonzero(labels == c).flatten()[-HELD_OUT:] for c in labels.unique()])
    training = torch.ones(len(labels), dtype=torch.bool)
    training[held_out] = False
    return torch.nonzero(training).flatten(), held_out


def one_epoch(run, images, labels, training, pixel_scale):
    """Mean loss and last learning rate of one pass over the training images in random order."""
    run.model.train()
    order = training[torch.randperm(len(training), generator=run.generator)]
    batches = len(training) // BATCH
    total, rate = 0.0, 0.0
    for number in range(batches):
        chosen = order[number * BATCH : (number + 1) * BATCH]
        inputs = general_images.vary(images[chosen], run.plan.side(run.epoch), run.generator)
        scores = run.model(general_images.normalise(inputs, *pixel_scale))
        loss = functional.cross_entropy(scores, labels[chosen])
        rate = run.set_rate(run.epoch * batches + number)
        run.optimiser.zero_grad()
        loss.backward()
        run.optimiser.step()
        run.averaged.update_parameters(run.model)
        total += loss.item()
    return total / batches, rate


@torch.no_grad()
def held_out_accuracy(averaged, images, labels, pixel_scale):
    """Share of the held-out images that the averaged network and its head name rightly."""
    averaged.eval()
    right = 0
    for part, truth in zip(images.split(500), labels.split(500)):
        inputs = general_images.normalise(general_images.as_devices_see(part), *pixel_scale)
        right += int((averaged(inputs).argmax(dim=1) == truth).sum())
    return right / len(labels)


@torch.no_grad()
def recalibrate(network, images, pixel_scale):
    """Measures the norms' means and variances anew, on whole images as devices see them.

    Training measured them on cuts, which are brighter, darker and enlarged (after H. Touvron et al., "Fixing the
    train-test resolution discrepancy", NeurIPS 2019).
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all batches
    network.train()
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:RECALIBRATION_IMAGES]
    for part in chosen.split(RECALIBRATION_BATCH):
        inputs = general_images.normalise(general_images.as_devices_see(images[part]), *pixel_scale)
        network(inputs.contiguous(memory_format=torch.channels_last))
    network.eval()


def averaged_network(checkpoint):
    """The averaged network of a checkpoint in f32, the run's plan and the epochs done. Recalibrate it before use."""
    state = torch.load(checkpoint, weights_only=True)
    prefix = "module.network."
    network = Network()
    network.load_state_dict({k[len(prefix) :]: v for k, v in state["averaged"].items() if k.startswith(prefix)})
    return network.eval(), Plan(**state["plan"]), state["epoch"]
