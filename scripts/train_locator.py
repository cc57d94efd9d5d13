#!/usr/bin/env python3
"""Trains the locator, models/locator.onnx, on transmitters simulated in models/locator.world.json.

    python3 -m venv .venv && .venv/bin/pip install -r scripts/requirements-train.txt
    .venv/bin/python scripts/train_locator.py

Simulates windows (samples of five stations, their spectrograms, pooled and kept in the work folder), trains on the
CPU, exports ONNX, makes INT8 versions of it, prints errors on transmitters that it never saw beside what least squares
make of the same ones, and writes the card. With `--golden` it only writes tests/signal/locator_golden.json.

Seeds: transmitters to train on are drawn with 1, those to choose weights and calibrate by with 2, the test's with 3.

The network sees a window as one level for each station. So it is trained on far more transmitters than are simulated:
their levels are computed, and each station's is replaced by what the network's first layers made of a simulated record
of the same level. Weights are chosen, calibrated and tested on simulated windows only.
"""

import argparse
import copy
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

from locator import baselines, quantise, simulate
from locator.network import UNIT, Locator, drop, export, loss_of, mahalanobis

ROOT = Path(__file__).resolve().parent.parent
TRAIN_SEED, CHOICE_SEED, TEST_SEED = 1, 2, 3
WITHIN = 1000.0
# Squared Mahalanobis distance within which 90 % of a normal distribution in two dimensions are.
ELLIPSE = 4.605
# A level of which less than this is left above the noise is no measurement to least squares, dB over the noise.
HEARD_DB = -15.0
# Share of transmitters in training that are quieter than the world's, and by how much, dB.
QUIET, QUIET_DB = 0.1, (0.0, 60.0)


# --- training -------------------------------------------------------------------------------------------------------


class Draws:
    """Transmitters without end, as levels that the network's first layers would give."""

    def __init__(self, world: simulate.World, model: Locator, facts: dict[str, np.ndarray], count: int, seed: int):
        self.world, self.rng = world, np.random.default_rng([TRAIN_SEED, seed])
        order = facts["levels"].reshape(-1).argsort()
        self.known = facts["levels"].reshape(-1)[order]
        self.measured = levels_of(model, facts["pooled"]).reshape(-1)[order]
        self.places = self.rng.uniform(-world.half, world.half, (count, 2))
        self.levels = np.concatenate([world.levels(p) for p in np.array_split(self.places, 1 + count // 50_000)])

    def batch(self, n: int):
        """Levels [n, stations], presence [n, stations] and places [n, 2] in UNITs."""
        rng, world = self.rng, self.world
        some = rng.integers(0, len(self.places), n)
        power = rng.uniform(*world.power, (n, 1))
        # Some are hardly heard or not at all: there the network learns that it knows nothing.
        power -= rng.uniform(*QUIET_DB, (n, 1)) * (rng.random((n, 1)) < QUIET)
        levels = self.levels[some] + power - rng.normal(0, world.shadow, (n, len(world)))
        near = np.searchsorted(self.known, levels) + rng.integers(-8, 9, levels.shape)
        levels = self.measured[near.clip(0, len(self.known) - 1)]
        places = (self.places[some] / UNIT).astype(np.float32)
        present = drop(rng, n, len(world))
        return (torch.from_numpy(v) for v in (levels.astype(np.float32), present, places))


@torch.no_grad()
def levels_of(model: Locator, pooled: np.ndarray, present: np.ndarray | None = None) -> np.ndarray:
    """What the first layers make of pooled windows."""
    present = np.ones(pooled.shape[:2], np.float32) if present is None else present
    parts = [
        model.levels(torch.from_numpy(pooled[i : i + 500]), torch.from_numpy(present[i : i + 500])).numpy()
        for i in range(0, len(pooled), 500)
    ]
    return np.concatenate(parts)


def train(world: simulate.World, model: Locator, facts: dict, choice: dict, args: argparse.Namespace) -> Locator:
    """Trains for args.steps, at half the rate where the model is not new, and gives the averaged weights that did best on the windows to choose by."""
    print(f"{len(facts['place'])} windows; {sum(p.numel() for p in model.parameters())} parameters", flush=True)
    average, best, chosen = copy.deepcopy(model), float("inf"), None
    draws = Draws(world, model, facts, args.places, int(args.resume))
    peak = 1e-3 if args.resume else 2e-3
    optimiser = torch.optim.AdamW(model.parameters(), peak, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, args.steps, pct_start=0.05)
    present = torch.from_numpy(drop(np.random.default_rng(CHOICE_SEED), len(choice["place"]), len(world)))
    levels = torch.from_numpy(levels_of(model, choice["pooled"], present.numpy()))
    places = torch.from_numpy((choice["place"] / UNIT).astype(np.float32))
    begin, seen = time.monotonic(), 0.0
    for step in range(1, args.steps + 1):
        x, p, y = draws.batch(args.batch)
        likelihood, confidence = loss_of(*model.raw(x, p), y, WITHIN)
        optimiser.zero_grad(set_to_none=True)
        (likelihood + confidence).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        keep = min(0.998, step / (step + 20))
        with torch.no_grad():
            for a, b in zip(average.parameters(), model.parameters()):
                a.lerp_(b, 1 - keep)
        seen += likelihood.item()
        if step % args.every == 0 or step == args.steps:
            with torch.no_grad():
                raw, sure = average.raw(levels, present)
                loss = sum(v.item() for v in loss_of(raw, sure, places, WITHIN))
                error = (raw[:, :2] - places).norm(dim=1).median().item() * UNIT
            spent = time.monotonic() - begin
            print(
                f"step {step}: loss {seen / args.every:.3f}, choice {loss:.3f}, {error:.0f} m, {spent:.0f} s",
                flush=True,
            )
            seen = 0.0
            if loss < best:
                best, chosen = loss, copy.deepcopy(average.state_dict())
    average.load_state_dict(chosen)
    return average.eval()


def calibrate(model: Locator, choice: dict) -> None:
    """Sets the factor on the spread so that 90 % are within the 90 % ellipse, and the confidence's two numbers."""
    rng = np.random.default_rng(CHOICE_SEED)
    pooled, places = (np.concatenate([choice[k]] * 3) for k in ("pooled", "place"))
    present = drop(rng, len(pooled), pooled.shape[1])
    with torch.no_grad():
        p = torch.from_numpy(present)
        raw, sure = model.raw(torch.from_numpy(levels_of(model, pooled, present)), p)
        position, spread, _ = (v.numpy() for v in model.outputs(raw, sure))
    far = mahalanobis(position, spread, places)
    model.widen.mul_(float(np.sqrt(np.quantile(far, 0.9) / ELLIPSE)))
    near = torch.from_numpy((np.linalg.norm(position - places, axis=1) < WITHIN).astype(np.float32))
    trust = torch.tensor([1.0, 0.0], requires_grad=True)
    optimiser = torch.optim.LBFGS([trust], max_iter=100)

    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(sure[:, 0] * trust[0] + trust[1], near)
        loss.backward()
        return loss

    optimiser.step(closure)
    model.trust.copy_(trust.detach())
    print(f"calibrated: spread x {model.widen.item():.3f}, confidence {model.trust.tolist()}", flush=True)


# --- evaluation -----------------------------------------------------------------------------------------------------


def errors(position: np.ndarray, places: np.ndarray) -> str:
    e = np.linalg.norm(position - places, axis=1)
    return f"median {np.median(e):5.0f} m, 90 % {np.quantile(e, 0.9):5.0f} m"


def reliability(outputs: list[np.ndarray], places: np.ndarray) -> str:
    """How true spread and confidence are."""
    position, spread, confidence = outputs
    inside = (mahalanobis(position, spread, places) < ELLIPSE).mean()
    near = np.linalg.norm(position - places, axis=1) < WITHIN
    group = np.minimum((confidence[:, 0] * 10).astype(int), 9)
    gap = sum(abs(confidence[group == g, 0].sum() - near[group == g].sum()) for g in range(10)) / len(near)
    text = f"{inside:.1%} within the 90 % ellipse; confidence {confidence.mean():.3f} where {near.mean():.3f} are"
    return f"{text} within {WITHIN:.0f} m, expected calibration error {gap:.3f}"


def measured(world: simulate.World, model: Locator, pooled: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Levels in dBFS as least squares take them: NaN where a station is missing or, with three others, not heard."""
    over = levels_of(model, pooled, present) * 10
    over[present == 0] = np.nan
    third = -np.sort(-np.nan_to_num(over, nan=-np.inf), axis=1)[:, [2]]
    return np.where((over > HEARD_DB) | (over >= third), over + world.noise, np.nan)


def evaluate(world: simulate.World, model: Locator, test: dict, onnx: Path) -> list[str]:
    """Errors on the test's transmitters, the network's and others', with all stations and with one or two missing."""
    lines = []
    n, stations = len(test["place"]), len(world)
    for missing in range(3):
        rng = np.random.default_rng(TEST_SEED)
        present = drop(rng, n, stations, [float(i == missing) for i in range(3)])
        places = test["place"]
        outputs = quantise.run(onnx, test["pooled"], present)
        heard = np.where(present > 0, 0, np.nan)
        times, sigma = baselines.arrival_times(world, test, rng)
        others = {
            "levels, least squares": baselines.rssi(world, measured(world, model, test["pooled"], present)),
            "levels, best possible": baselines.informed(world, test["levels"] + heard),
            "times, least squares": baselines.tdoa(world, times + heard, sigma),
        }
        lines.append(f"{stations - missing} stations, {n} transmitters:")
        lines.append(f"  locator                {errors(outputs[0], places)}")
        lines += [f"  {name:22} {errors(position, places)}" for name, position in others.items()]
        lines.append(f"  {reliability(outputs, places)}")
        print("\n".join(lines[-6:]), flush=True)
    outputs = quantise.run(onnx, silence(world, 200), np.ones((200, stations), np.float32))
    sure, sigma = outputs[2].max(), np.median(outputs[1][:, :2])
    lines.append(f"nobody sends, 200 windows: confidence at most {sure:.3f}, sigma {sigma:.0f} m (median)")
    print(lines[-1], flush=True)
    return lines


def silence(world: simulate.World, count: int) -> np.ndarray:
    """Pooled windows in which there is noise only."""
    pooled = np.empty((count, len(world), simulate.COLUMNS), np.float32)
    for i in range(count):
        transmitter, rng = simulate.window(world, (TEST_SEED, i))
        transmitter.power = -1000.0
        for s in range(len(world)):
            pooled[i, s] = simulate.pool(simulate.spectrogram(transmitter.record(s, rng)))
    return pooled


def verify(world: simulate.World, model: Locator, onnx: Path, test: dict) -> None:
    """ONNX Runtime's outputs against PyTorch's, on whole spectrograms and batches of several sizes; pooled windows
    against whole ones."""
    network, worst = quantise.session(onnx), 0.0
    for batch in (1, 3):
        x = np.empty((batch, len(world), simulate.BANDS, simulate.COLUMNS), np.float32)
        for i in range(batch):
            transmitter, rng = simulate.window(world, (TEST_SEED, i))
            for s in range(len(world)):
                x[i, s] = simulate.decibels(simulate.spectrogram(transmitter.record(s, rng)))
        x[0, 1] = -120.0
        present = np.ones(x.shape[:2], np.float32)
        present[0, 1] = 0
        theirs = network.run(None, {"spectrograms": x})
        with torch.no_grad():
            whole = [v.numpy() for v in model(torch.from_numpy(x))]
            pooled = model.locate(torch.from_numpy(test["pooled"][:batch]), torch.from_numpy(present))
        for a, b, c, scale in zip(theirs, whole, pooled, (UNIT, UNIT, 1.0)):
            worst = max(worst, float(np.abs(a - b).max()) / scale, float(np.abs(a - c.numpy()).max()) / scale)
    print(f"ONNX Runtime, PyTorch and pooled windows agree within {worst:.1e} (of 1 km, of 1)", flush=True)
    if worst > 1e-3:
        raise SystemExit("the exported model does not compute what was trained")


def compare(world: simulate.World, onnx: Path, work: Path, facts: dict, test: dict) -> list[str]:
    """The INT8 versions beside the original: size, speed, accuracy."""
    paths = {"fp32": onnx, "int8 dynamic": work / "locator-dynamic.onnx", "int8 static": work / "locator-static.onnx"}
    rng = np.random.default_rng(TRAIN_SEED)
    quantise.dynamic(onnx, paths["int8 dynamic"])
    quantise.static(onnx, paths["int8 static"], facts["pooled"][:800], drop(rng, 800, len(world)))
    present = drop(np.random.default_rng(TEST_SEED), len(test["place"]), len(world))
    one, eight = (quantise.milliseconds(paths, batch, len(world)) for batch in (1, 8))
    lines = ["version        size       1 window         8 windows        accuracy (up to two stations missing)"]
    for name, path in paths.items():
        outputs = quantise.run(path, test["pooled"], present)
        size = path.stat().st_size
        inside = (mahalanobis(outputs[0], outputs[1], test["place"]) < ELLIPSE).mean()
        lines.append(
            f"{name:12} {size / 1000:5.0f} kB {onnx.stat().st_size / size:4.2f}x  "
            f"{one[name]:5.2f} ms {one['fp32'] / one[name]:4.2f}x   "
            f"{eight[name]:5.2f} ms {eight['fp32'] / eight[name]:4.2f}x   "
            f"{errors(outputs[0], test['place'])}, {inside:.1%} within the ellipse"
        )
    print("\n".join(lines), flush=True)
    return lines


# --- files ----------------------------------------------------------------------------------------------------------


def golden(world: simulate.World, path: Path) -> None:
    """What tests/signal/locator.rs compares with: levels, and spectrogram values of a signal made by formula."""
    rng = np.random.default_rng(1)
    levels = []
    for i in range(40):
        place = rng.uniform(-world.half, world.half, 2).round(1)
        if i < len(world):
            place = world.places[i] + [30.0, 0.0]
        power = round(float(rng.uniform(*world.power)), 2)
        levels.append(
            {"place": place.tolist(), "power_db": power, "dbfs": (world.levels(place) + power).round(9).tolist()}
        )
    i = np.arange(simulate.SAMPLES)
    state, noise = 1, np.empty(2 * simulate.SAMPLES)
    for k in range(len(noise)):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        noise[k] = (state >> 40) / 2.0**23 - 1.0
    # Keyed by the second, frequency modulated, 1537 Hz above the centre, over noise.
    t = i / world.rate
    phase = 2 * np.pi * 1537 * t + 1.7 * np.sin(2 * np.pi * 701 * t) + 0.4 * np.sin(2 * np.pi * 2203 * t)
    samples = 0.02 * np.exp(1j * phase) * (i // 22050 % 3 < 2) + 0.001 * (noise[0::2] + 1j * noise[1::2])
    level = simulate.decibels(simulate.spectrogram(samples.astype(np.complex64).astype(np.complex128)))
    columns = {str(c): level[:, c].round(5).tolist() for c in (0, 43, 86, 87, 215, 430)}
    path.write_text(json.dumps({"levels": levels, "columns": columns}).replace('{"place"', '\n{"place"') + "\n")


CARD = """\
# Where a transmitter is, from the spectrograms of five stations that hear it: framegate's own locator. It is made for
# the simulated world beside it and knows no other. scripts/train_locator.py trained it from nothing and wrote this.
#
# Errors on transmitters that it never saw, and those of others on the same ones: least squares of levels know the loss
# with distance, not the hills; the best possible knows all that the simulation does, and has levels without noise;
# least squares of arrival times have what the locator does not need: clocks good to {clock:.1f} µs (one sigma), and
# estimates as good as the Cramér-Rao bound.
#
{figures}
#
# INT8 versions of it on one thread, medians of alternating rounds:
#
{versions}
file     = "{file}"
sha256   = "{sha256}"
licence  = "MIT OR Apache-2.0"
source   = "scripts/train_locator.py"
accuracy = "{accuracy}"
notes    = "{notes}"

[input]
name = "spectrograms"

[locator]
world    = "{world}"
within_m = {within}
"""


def write_card(
    world: simulate.World, model: Locator, onnx: Path, figures: list[str], versions: list[str], n: int
) -> None:
    comment = lambda lines: "\n".join(f"#   {line}".rstrip() for line in lines)
    count = sum(p.numel() for p in model.parameters())
    figure = " ".join(figures[1].replace("locator", "").split())
    card = CARD.format(
        clock=world["clock_error_s"] * 1e6,
        figures=comment(figures),
        versions=comment(versions),
        file=onnx.name,
        sha256=hashlib.sha256(onnx.read_bytes()).hexdigest(),
        accuracy=f"{figure} on {n} simulated transmitters that it never saw",
        notes=f"{count} parameters. The position is that in the middle of the window.",
        world=world.file.name,
        within=WITHIN,
    )
    onnx.with_suffix(".toml").write_text(card)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "locator", help="folder for what is made")
    parser.add_argument("--windows", type=int, default=4000, help="windows to simulate for training")
    parser.add_argument("--choice", type=int, default=2000, help="windows to choose and calibrate by")
    parser.add_argument("--test", type=int, default=3000, help="windows to test on")
    parser.add_argument(
        "--places", type=int, default=1_000_000, help="places of transmitters whose levels are computed"
    )
    parser.add_argument("--steps", type=int, default=12000, help="steps to train")
    parser.add_argument("--batch", type=int, default=2048, help="transmitters per step")
    parser.add_argument("--every", type=int, default=500, help="steps between looks at the windows to choose by")
    parser.add_argument("--threads", type=int, default=2, help="processes that simulate")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the weights of the last run; with --steps 0 as they are"
    )
    parser.add_argument("--world", type=Path, default=ROOT / "models" / "locator.world.json")
    parser.add_argument("--output", type=Path, default=ROOT / "models" / "locator.onnx")
    parser.add_argument("--golden", action="store_true", help="only write tests/signal/locator_golden.json")
    args = parser.parse_args()
    world = simulate.World(args.world)
    if args.golden:
        return golden(world, ROOT / "tests" / "signal" / "locator_golden.json")
    os.nice(19 - os.nice(0))
    # So small a network gains nothing from a second thread, and much is lost where another program wants the core.
    torch.set_num_threads(1)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    wanted = ((TRAIN_SEED, args.windows), (CHOICE_SEED, args.choice), (TEST_SEED, args.test))
    facts, choice, test = (simulate.windows(world, args.work, seed, n, args.threads) for seed, n in wanted)
    weights = args.work / "weights.pt"
    torch.manual_seed(1)
    model = Locator(world, WITHIN).eval()
    if args.resume:
        model.load_state_dict(torch.load(weights, weights_only=True))
    if args.steps > 0:
        model = train(world, model, facts, choice, args)
        torch.save(model.state_dict(), weights)
    calibrate(model, choice)
    export(model, world, args.output)
    verify(world, model, args.output, test)
    figures = evaluate(world, model, test, args.output)
    versions = compare(world, args.output, args.work, facts, test)
    write_card(world, model, args.output, figures, versions, len(test["place"]))


if __name__ == "__main__":
    main()
