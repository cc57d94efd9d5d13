"""Other ways to locate the same transmitters: least squares of levels, of arrival times, and the best there is.

Each takes [n, stations] of observations, with NaN where a station is missing, and gives [n, 2] metres east and north.
"""

import numpy as np
from scipy.special import ndtr

from .simulate import LIGHT, World

# Metres between the points of the first grid, and how often its best point's surroundings are looked at more closely.
GRID, FINER = 200.0, 5


def search(world: World, cost) -> np.ndarray:
    """Where `cost` is least within the world's square: on a grid, then on ever finer ones around its best point.

    `cost(places)` takes [n or 1, points, 2] and gives [n, points].
    """
    side = np.arange(-world.half, world.half + 1, GRID)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(1, -1, 2)
    best = grid[0, cost(grid).argmin(1)]
    step = np.stack(np.meshgrid(np.arange(-4, 5), np.arange(-4, 5)), -1).reshape(-1, 2) / 4
    width = GRID
    for _ in range(FINER):
        around = np.clip(best[:, None] + step * width, -world.half, world.half)
        best = around[np.arange(len(best)), cost(around).argmin(1)]
        width /= 3
    return best


def spread(difference: np.ndarray, weight: np.ndarray | float = 1.0) -> np.ndarray:
    """Weighted sum of squares of [..., stations] around their mean, NaN passed over: what an unknown of all leaves."""
    weight = np.where(np.isfinite(difference), weight, 0)
    difference = np.nan_to_num(difference)
    mean = (weight * difference).sum(-1, keepdims=True) / weight.sum(-1, keepdims=True)
    return (weight * (difference - mean) ** 2).sum(-1)


def in_parts(locate, *observed: np.ndarray) -> np.ndarray:
    """So many at a time that memory does."""
    return np.concatenate([locate(*(o[i : i + 100] for o in observed)) for i in range(0, len(observed[0]), 100)])


def rssi(world: World, levels: np.ndarray) -> np.ndarray:
    """Least squares of levels (dBFS): knows the loss with distance and the stations' gains, neither the transmitter's
    power nor the terrain."""
    return in_parts(lambda l: search(world, lambda p: spread(l[:, None] - world.open_levels(p))), levels)


def tdoa(world: World, times: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Least squares of arrival times (seconds) of a signal sent at an unknown time, each weighted by how good it is."""

    def locate(t, s):
        far, weight = t[:, None] * LIGHT, 1 / (s[:, None] * LIGHT) ** 2
        return search(world, lambda p: spread(far - world.distances(p), weight))

    return in_parts(locate, times, sigma)


def arrival_times(
    world: World, facts: dict[str, np.ndarray], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Arrival times with each station's clock error and an estimation error of the Cramér-Rao bound, and their sigma.

    For a known signal in white noise the bound is 1 / (2 SNR n (2 pi beta)²) s², with n independent samples while the
    transmitter is keyed and beta the signal's rms bandwidth: kinder to this way of locating than any receiver can be.
    """
    snr = 10 ** ((facts["levels"] - world.noise) / 10)
    n = facts["on"] * world.rate
    bound = 1 / (2 * snr * (n * (2 * np.pi * facts["bandwidth"]) ** 2)[:, None])
    exact = world.distances(facts["place"]) / LIGHT
    sigma = np.sqrt(bound + world["clock_error_s"] ** 2)
    return exact + facts["clocks"] + rng.normal(0, 1, snr.shape) * np.sqrt(bound), sigma


def informed(world: World, levels: np.ndarray) -> np.ndarray:
    """The mean of all places, each as probable as the levels make it, by one who knows the world: the hills, the
    shadowing's spread and the range of powers. With squared errors nobody who has levels only does better."""
    side = np.arange(-world.half, world.half + 1, GRID / 2)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    expected = world.levels(grid)

    def locate(levels):
        heard = np.isfinite(levels)
        count = heard.sum(1)[:, None]
        off = np.where(heard, levels, 0)[:, None] - np.where(heard[:, None], expected, 0)
        mean, square = off.sum(-1) / count, (off**2).sum(-1)
        # The squares around the mean, and how probable it is that the power is what the mean says, give or take.
        log = -(square - count * mean**2) / (2 * world.shadow**2)
        below, above = ((power - mean) * np.sqrt(count) / world.shadow for power in world.power)
        log += np.log(ndtr(above) - ndtr(below) + 1e-300)
        weight = np.exp(log - log.max(1, keepdims=True))
        return weight @ grid / weight.sum(1, keepdims=True)

    return in_parts(locate, levels)
