"""The locator's network: pooling, levels, and a small perceptron that says where, how sure and how far off."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .simulate import BANDS, COLUMNS, SIZE, World

# Metres of a unit of the network's output.
UNIT = 1000.0
# A station whose highest value is not above this is absent, dB.
ABSENT_DB = -119.0
# The lowest level that is told, as a ratio to the noise.
FAINTEST = 1e-3
# Columns of all stations together with less power than this many times the noise may be noise: its highest are some ten
# standard deviations lower.
HEARD = 1.3
# The mean over a Hann window of what noise leaves in the sum of all bands, which are means of neighbouring bins.
NOISE_POOLED = 1.5 * BANDS / SIZE


class Locator(nn.Module):
    """Spectrograms in dB [n, stations, BANDS, COLUMNS] to position [n, 2] and spread [n, 3] in metres (sigma east,
    sigma north, correlation), and confidence [n, 1]: the probability that the truth is within `within` metres of it.
    """

    def __init__(self, world: World, within: float, width: int = 192, depth: int = 3):
        super().__init__()
        stations = len(world)
        self.within = within
        self.register_buffer("noise", torch.tensor(10 ** (world.noise / 10) * NOISE_POOLED, dtype=torch.float32))
        # Set by `calibrate`: a factor on the spread, factor and offset of the confidence before the logistic function.
        self.register_buffer("widen", torch.tensor(1.0))
        self.register_buffer("trust", torch.tensor([1.0, 0.0]))
        self.first = nn.Linear(3 * stations, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.out = nn.Linear(width, 5)
        self.sure = nn.Sequential(nn.Linear(width + 5, 32), nn.ReLU(), nn.Linear(32, 1))

    def levels(self, pooled, present):
        """Of pooled powers [n, stations, COLUMNS] signal over noise while keyed, in tens of dB [n, stations]."""
        relative = pooled / self.noise * present[:, :, None]
        together = relative.sum(1, keepdim=True)
        # Keyed is where all stations together have more than halfway, in dB, from their noise to their highest; where
        # that is hardly above the noise nobody can tell, and all columns count.
        highest, noise = together.amax(2, keepdim=True), present.sum(1)[:, None, None]
        heard = (highest > HEARD * noise).float()
        keyed = (together >= (highest * noise).sqrt() * heard).float()
        mean = (relative * keyed).sum(2) / keyed.sum(2)
        return torch.log10((mean - 1).clamp(min=FAINTEST))

    def raw(self, levels, present):
        """Position and spread before their limits, in UNITs, and the confidence before its own."""
        levels = levels * present
        middle = levels.sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
        x = F.relu(self.first(torch.cat([levels, (levels - middle) * present, present], 1)))
        for layer in self.hidden:
            x = x + F.relu(layer(x))
        out = self.out(x)
        # The confidence learns from what the position learnt, and does not disturb it.
        return out, self.sure(torch.cat([x, out], 1).detach())

    def outputs(self, raw, sure):
        sigma = (raw[:, 2:4].clamp(-5, 3).exp() * self.widen) * UNIT
        spread = torch.cat([sigma, 0.99 * torch.tanh(raw[:, 4:5])], 1)
        return raw[:, :2] * UNIT, spread, torch.sigmoid(sure * self.trust[0] + self.trust[1])

    def locate(self, pooled, present):
        return self.outputs(*self.raw(self.levels(pooled, present), present))

    def forward(self, spectrograms):
        present = (spectrograms.amax((2, 3)) > ABSENT_DB).float()
        pooled = (spectrograms * (math.log(10) / 10)).exp().sum(2)
        return self.locate(pooled, present)


def loss_of(raw, sure, places, within: float):
    """Negative log-likelihood of a normal distribution in two dimensions, and of being within so many metres."""
    error = raw[:, :2] - places
    log_sigma = raw[:, 2:4].clamp(-5, 3)
    rho = 0.99 * torch.tanh(raw[:, 4])
    a, b = (error / log_sigma.exp()).unbind(1)
    rest = 1 - rho**2
    likelihood = 0.5 * (a * a - 2 * rho * a * b + b * b) / rest + log_sigma.sum(1) + 0.5 * rest.log()
    near = (error.detach().norm(dim=1) < within / UNIT).float()
    return likelihood.mean(), F.binary_cross_entropy_with_logits(sure[:, 0], near)


def mahalanobis(position, spread, places):
    """Squared distance of the truth in the spread's own measure; 90 % lie within 4.605 of a normal distribution."""
    a, b = ((position - places) / spread[:, :2]).T
    rho = spread[:, 2]
    return (a * a - 2 * rho * a * b + b * b) / (1 - rho**2)


def drop(rng: np.random.Generator, n: int, stations: int, shares=(0.55, 0.3, 0.15)) -> np.ndarray:
    """Presence [n, stations], with none, one or two stations missing in these shares (at least three are left)."""
    missing = rng.choice(len(shares), n, p=shares)
    order = rng.random((n, stations)).argsort(1)
    return (order >= np.minimum(missing, max(stations - 3, 0))[:, None]).astype(np.float32)


def export(model: Locator, world: World, path: Path) -> None:
    import onnx

    model = model.eval()
    outputs = ["position", "spread", "confidence"]
    torch.onnx.export(
        model,
        (torch.full((2, len(world), BANDS, COLUMNS), -90.0),),
        str(path),
        opset_version=17,
        input_names=["spectrograms"],
        output_names=outputs,
        dynamic_axes={name: {0: "batch"} for name in ["spectrograms", *outputs]},
        dynamo=False,
    )
    graph = onnx.load(str(path))
    facts = {
        "description": "framegate locator: where a transmitter is, from the spectrograms of the stations that hear it",
        "license": "MIT OR Apache-2.0",
        "task": "locate",
        "world": world.file.name,
        "stations": str([s["id"] for s in world["stations"]]),
        "within_m": str(model.within),
    }
    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))
