"""The world of models/locator.world.json: levels, transmitters, what five stations record of them, and spectrograms.

src/signal/world.rs computes the same levels, the `spectrogram` stage the same spectrograms; tests/signal/locator.rs
compares.
"""

import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import scipy.fft

SIZE, COLUMNS, BANDS = 512, 431, 128
SAMPLES = SIZE * COLUMNS
LEAST = 1e-12
LIGHT = 299_792_458.0
NEAREST = 50.0
# Windows of a part that one process simulates and one file keeps.
PART = 250


class World:
    def __init__(self, path: Path):
        self.file = path
        self.facts = facts = json.loads(path.read_text())
        self.rate, self.frequency = float(facts["sample_rate"]), float(facts["frequency"])
        self.half = float(facts["half_side_m"])
        self.places = np.array([[s["east_m"], s["north_m"]] for s in facts["stations"]], float)
        self.gains = np.array([s["gain_db"] for s in facts["stations"]], float)
        self.hills = np.array([[h[k] for k in ("east_m", "north_m", "radius_m", "loss_db")] for h in facts["hills"]])
        self.noise = float(facts["noise_dbfs"])
        self.shadow = float(facts["shadow_sigma_db"])
        self.power = facts["power_db"]

    def __getitem__(self, key):
        return self.facts[key]

    def __len__(self):
        return len(self.places)

    def distances(self, places: np.ndarray) -> np.ndarray:
        """Metres from each of [..., 2] places to each station: [..., stations]."""
        return np.hypot(*np.moveaxis(places[..., None, :] - self.places, -1, 0))

    def open_levels(self, places: np.ndarray) -> np.ndarray:
        """Levels [..., stations] in dBFS of a transmitter of 0 dB at [..., 2] places, were there no hills."""
        far = np.maximum(self.distances(places), NEAREST) / 1000
        return self["reference_dbfs"] + self.gains - 10 * self["path_exponent"] * np.log10(far)

    def levels(self, places: np.ndarray) -> np.ndarray:
        """Levels [..., stations] in dBFS of a transmitter of 0 dB at [..., 2] places, without shadowing."""
        along = places[..., None, :] - self.places
        length = (along**2).sum(-1)
        loss = np.zeros(along.shape[:-1])
        for east, north, radius, most in self.hills:
            to = np.array([east, north]) - self.places
            share = np.clip((to * along).sum(-1) / np.where(length > 0, length, 1), 0, 1)
            past = to - share[..., None] * along
            loss += most * np.exp(-(past**2).sum(-1) / (2 * radius**2))
        return self.open_levels(places) - loss


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """Power [COLUMNS, BANDS] of SAMPLES complex samples: lowest band first, 1 for a tone of full scale in a bin."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / SIZE)
    window = (window / window.sum()).astype(samples.real.dtype)
    bins = scipy.fft.fft(samples.reshape(-1, SIZE) * window, axis=1, overwrite_x=True)
    power = bins.real**2 + bins.imag**2
    # Each band is the mean of neighbouring bins; the upper half of a transform holds the negative frequencies.
    width = SIZE // BANDS
    bands = sum(power[:, i::width] for i in range(width)) / width
    return np.roll(bands, BANDS // 2, 1)


def decibels(power: np.ndarray) -> np.ndarray:
    """Of powers [COLUMNS, BANDS] what the network takes: [BANDS, COLUMNS]."""
    return (10 * np.log10(np.maximum(power, LEAST))).astype(np.float32).T


def between(rng: np.random.Generator, pair) -> float:
    return rng.uniform(pair[0], pair[1])


class Transmitter:
    """One that is drawn: where it goes for a window, how loud it is, what it sends."""

    def __init__(self, world: World, rng: np.random.Generator):
        self.world = world
        self.seconds = SAMPLES / world.rate
        self.middle = rng.uniform(-world.half, world.half, 2)
        heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0, world["speed_mps"])
        self.velocity = speed * np.array([np.sin(heading), np.cos(heading)])
        self.power = between(rng, world.power)
        self.offset = rng.uniform(-world["offset_hz"], world["offset_hz"])
        self.shadows = rng.normal(0, world.shadow, len(world))
        self.oscillators = rng.normal(0, world["oscillator_hz"], len(world))
        self.clocks = rng.normal(0, world["clock_error_s"], len(world))
        # It has been sending for a while when the window begins.
        time, self.keyed = -rng.uniform(0, world["on_s"][1] + world["off_s"][1]), []
        while time < self.seconds:
            on = between(rng, world["on_s"])
            self.keyed.append((time, time + on))
            time += on + between(rng, world["off_s"])
        self.first = -rng.uniform(0, world["syllable_s"]) - world["syllable_s"]
        shape = (int(np.ceil((self.seconds - self.first) / world["syllable_s"])) + 1, world["tones"])
        self.tones = rng.uniform(*world["tone_hz"], shape)
        self.index = rng.uniform(*world["index"], shape)
        self.turns = rng.uniform(0, 1, shape)

    def place(self, time: np.ndarray) -> np.ndarray:
        """Metres east and north at seconds from the window's start."""
        return self.middle + np.multiply.outer(time - self.seconds / 2, self.velocity)

    def level(self, time: np.ndarray) -> np.ndarray:
        """Levels [times, stations] in dBFS while keyed."""
        return self.world.levels(self.place(time)) + self.power - self.shadows

    def on_seconds(self) -> float:
        return sum(max(0.0, min(b, self.seconds) - max(a, 0.0)) for a, b in self.keyed)

    def bandwidth(self) -> float:
        """The signal's rms bandwidth, Hz: the rms deviation of its frequency."""
        return float(np.sqrt((0.5 * (self.index * self.tones) ** 2).sum(1).mean()))

    def record(self, station: int, rng: np.random.Generator) -> np.ndarray:
        """What a station records: SAMPLES complex samples of single precision."""
        world = self.world
        time = np.arange(SAMPLES) / world.rate
        # Distance and level change so slowly that they are straight lines over a column.
        edges = np.arange(COLUMNS + 1) * SIZE / world.rate
        part = np.arange(SIZE) / SIZE
        line = lambda v: (v[:-1, None] + np.diff(v)[:, None] * part).reshape(-1)
        far = line(world.distances(self.place(edges))[:, station])
        amplitude = line(10 ** (self.level(edges)[:, station] / 20)).astype(np.float32)
        sent = time - far / LIGHT - self.clocks[station]
        phase = np.empty(SAMPLES, np.float32)
        starts = self.first + np.arange(len(self.tones) + 1) * world["syllable_s"]
        cuts = np.searchsorted(sent, starts)
        for k, (a, b) in enumerate(zip(cuts[:-1], cuts[1:])):
            if a == b:
                continue
            # Single precision does: seconds within a syllable are few.
            since = (sent[a:b] - starts[k]).astype(np.float32)
            phase[a:b] = 0
            for tone, index, turn in zip(self.tones[k], self.index[k], self.turns[k]):
                phase[a:b] += np.float32(index) * np.sin(
                    np.float32(2 * np.pi) * (np.float32(tone) * since + np.float32(turn))
                )
        # Turns of the carrier: its path's length in waves, and how far transmitter and station are off the centre.
        turns = (self.offset + self.oscillators[station]) * time - world.frequency / LIGHT * (far - far[0])
        phase += (2 * np.pi * (turns - np.floor(turns))).astype(np.float32)
        keyed = np.zeros(SAMPLES, bool)
        for a, b in self.keyed:
            keyed[slice(*np.searchsorted(sent, (a, b)))] = True
        amplitude *= keyed
        samples = np.empty(SAMPLES, np.complex64)
        noise = rng.standard_normal((2, SAMPLES), np.float32) * np.float32(np.sqrt(10 ** (world.noise / 10) / 2))
        samples.real = amplitude * np.cos(phase) + noise[0]
        samples.imag = amplitude * np.sin(phase) + noise[1]
        return samples


def pool(power: np.ndarray) -> np.ndarray:
    """The network's first layer: the power of all bands, column by column."""
    return power.sum(-1, dtype=np.float32)


# What is kept of a window beside its pooled powers [stations, COLUMNS]: place in the middle of it, in metres east and
# north; levels there in dBFS; each station's clock error in seconds; rms bandwidth in Hz; seconds keyed.
FACTS = ("place", "levels", "clocks", "bandwidth", "on")


def window(world: World, seed: tuple[int, int]):
    """One window: the transmitter, a generator of its own, its stations' noise not yet drawn."""
    rng = np.random.default_rng(seed)
    return Transmitter(world, rng), rng


def simulate_part(job) -> None:
    path, world_file, seed, first, count = job
    os.nice(19 - os.nice(0))
    world = World(world_file)
    pooled = np.empty((count, len(world), COLUMNS), np.float32)
    facts = {name: [] for name in FACTS}
    for i in range(count):
        transmitter, rng = window(world, (seed, first + i))
        for s in range(len(world)):
            pooled[i, s] = pool(spectrogram(transmitter.record(s, rng)))
        facts["place"].append(transmitter.middle)
        facts["levels"].append(transmitter.level(np.array([transmitter.seconds / 2]))[0])
        facts["clocks"].append(transmitter.clocks)
        facts["bandwidth"].append(transmitter.bandwidth())
        facts["on"].append(transmitter.on_seconds())
    temporary = path.with_suffix(".new.npz")
    np.savez(temporary, pooled=pooled, **{k: np.array(v) for k, v in facts.items()})
    # Replaced in one go: an interruption leaves no half file.
    temporary.replace(path)


def windows(world: World, folder: Path, seed: int, count: int, processes: int) -> dict[str, np.ndarray]:
    """Windows of transmitters drawn with a seed, pooled; simulates those that the folder does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [(folder / f"{seed}-{first}+{PART}.npz", world.file, seed, first, PART) for first in range(0, count, PART)]
    missing = [p for p in parts if not p[0].exists()]
    if missing:
        with multiprocessing.get_context("spawn").Pool(processes) as workers:
            for n, _ in enumerate(workers.imap_unordered(simulate_part, missing), 1):
                print(f"seed {seed}: {n} of {len(missing)} parts simulated", flush=True)
    loaded = [np.load(p[0]) for p in parts]
    return {k: np.concatenate([part[k] for part in loaded])[:count] for k in ("pooled", *FACTS)}
