#!/usr/bin/env python3
"""Trains the demonstration model, models/pitch.onnx, on drawn soccer scenes.

    python3 -m venv .venv && .venv/bin/pip install -r scripts/requirements-train.txt
    .venv/bin/python scripts/train_demo_model.py --bf16     # without --bf16 where the CPU does not know it

Draws the scenes with `cargo run --release --example draw_scenes`, trains on the CPU for the steps asked for, exports
ONNX and prints the mean average precision on scenes that were not trained on. The figure on the model's card is the
one that `cargo test --test demo_model` computes through framegate's own stages.

The schedule counts steps, so a slow or busy machine trains as well as a fast one, only later: the 20 000 steps
took 28 minutes of CPU time with bfloat16, drawing not included. `--resume` goes on from the last checkpoint in the work
folder as if nothing had happened.

Seeds: training scenes have seeds from 1 on, scenes to choose the best weights by from 900000001 on, and the test's from
1800000001 on. The three never meet.
"""

import argparse
import copy
import json
import math
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["player", "referee", "ball"]
WIDTH, HEIGHT, STRIDE = 640, 384, 8
SCENE = (1280, 720)
PAD = 114
TRAIN_SEED, CHOICE_SEED = 1, 900_000_001
VISIBLE = 0.25
# A step's pictures are shared out among so many copies of the model, whatever the number of threads: what is computed
# does not depend on that, and a thread that is interrupted holds up the others once a step instead of in every layer.
COPIES = 2
# Scenes that one process draws.
PART = 500
# Shares of the training after which the rate begins to fall, and whole pictures replace quarters.
FALL, WHOLE = 0.6, 0.85
# A box as large as this in model pixels is "1" to the network.
BOX_UNIT = 16.0


# --- data -----------------------------------------------------------------------------------------------------------


def draw(work: Path, seed: int, count: int, processes: int) -> list[Path]:
    """Draws scenes into folders of PART scenes each, except into those that hold them already. Gives the folders."""
    size = f"{SCENE[0]}x{SCENE[1]}"
    parts = [(seed + i, min(PART, count - i)) for i in range(0, count, PART)]
    folders = [work / "scenes" / f"{first}+{some}" for first, some in parts]

    def one(folder: Path, first: int, some: int) -> None:
        command = ["cargo", "run", "-q", "--release", "--example", "draw_scenes", "--", "--seed", str(first)]
        subprocess.run([*command, "--count", str(some), "--size", size, "-o", str(folder)], cwd=ROOT, check=True)

    with ThreadPoolExecutor(processes) as pool:
        # The labels are written last: a folder with them is complete.
        jobs = [pool.submit(one, f, *p) for f, p in zip(folders, parts) if not (f / "labels.json").exists()]
        for n, job in enumerate(jobs, 1):
            job.result()
            print(f"drawn: {n} of {len(jobs)} parts", flush=True)
    return folders


def to_rgb(frame: np.ndarray) -> np.ndarray:
    """I420 (BT.709, limited) to RGB at half the size: the mean of four luma samples meets their chroma sample."""
    width, height = SCENE
    luma = frame[: width * height].reshape(height, width)
    luma = sum(luma[dy::2, dx::2].astype(np.float32) for dy in (0, 1) for dx in (0, 1)) / 4
    u, v = frame[width * height :].reshape(2, height // 2, width // 2).astype(np.float32) - 128
    y, u, v = (luma - 16) / 219, u / 224, v / 224
    rgb = np.stack([y + 1.5748 * v, y - 0.187324 * u - 0.468124 * v, y + 1.8556 * u], -1)
    return np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)


class Scenes:
    """Pictures of WIDTH×HEIGHT (letterboxed) and their boxes in model pixels: class, x1, y1, x2, y2, visible."""

    def __init__(self):
        self.rgb, self.boxes = [], []

    def add(self, folder: Path) -> None:
        """Reads what `draw` left in a folder."""
        frames = np.memmap(folder / "frames.i420", np.uint8, "r").reshape(-1, SCENE[0] * SCENE[1] * 3 // 2)
        for frame, objects in zip(frames, json.loads((folder / "labels.json").read_text())["pictures"]):
            half = to_rgb(frame)
            top = (HEIGHT - half.shape[0]) // 2
            picture = np.full((HEIGHT, WIDTH, 3), PAD, np.uint8)
            picture[top : top + half.shape[0]] = half
            boxes = np.array(objects, np.float32).reshape(-1, 6)
            boxes[:, 1:5] *= WIDTH / SCENE[0]
            boxes[:, [2, 4]] += top
            self.rgb.append(picture)
            self.boxes.append(boxes)

    def __len__(self) -> int:
        return len(self.rgb)

    def crop(self, rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """A random part of a random scene, more often than not around a ball or a referee, mirrored half the time."""
        i = rng.integers(len(self))
        w, h = size
        boxes = self.boxes[i]
        rare = boxes[(boxes[:, 0] > 0) & (boxes[:, 5] > VISIBLE)]
        x, y = rng.integers(0, WIDTH - w + 1), rng.integers(0, HEIGHT - h + 1)
        if len(rare) and rng.random() < 0.6:
            box = rare[rng.integers(len(rare))]
            x = int(np.clip((box[1] + box[3]) / 2 - rng.uniform(0.1, 0.9) * w, 0, WIDTH - w))
            y = int(np.clip((box[2] + box[4]) / 2 - rng.uniform(0.1, 0.9) * h, 0, HEIGHT - h))
        picture = self.rgb[i][y : y + h, x : x + w]
        boxes = boxes.copy()
        boxes[:, [1, 3]] -= x
        boxes[:, [2, 4]] -= y
        whole = np.maximum((boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2]), 1e-3)
        boxes[:, [1, 3]] = boxes[:, [1, 3]].clip(0, w)
        boxes[:, [2, 4]] = boxes[:, [2, 4]].clip(0, h)
        kept = (boxes[:, 3] - boxes[:, 1]) * (boxes[:, 4] - boxes[:, 2]) / whole
        boxes[:, 5] *= kept
        boxes = boxes[kept > 0.02]
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
            boxes[:, [1, 3]] = w - boxes[:, [3, 1]]
        return picture, boxes


# --- model ----------------------------------------------------------------------------------------------------------


def conv(cin: int, cout: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    layers = [nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(cout), nn.ReLU(True)]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.body = nn.Sequential(conv(channels, inner), conv(inner, channels))

    def forward(self, x):
        return x + self.body(x)


def separable(channels: int) -> nn.Sequential:
    across = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(across, nn.BatchNorm2d(channels), nn.ReLU(True), conv(channels, channels, 1))


class Pitch(nn.Module):
    """A small backbone, one step of feature pyramid, and one anchor-free head at stride 8.

    Output: [B, 4 + classes, cells] with centre x, centre y, width, height in model pixels, then class scores 0 to 1.
    """

    def __init__(self, classes: int = len(NAMES)):
        super().__init__()
        # Multiples of 16 channels: others cost as much, since vectors are that wide.
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), conv(32, 32))
        self.fine = nn.Sequential(conv(32, 48, 3, 2), Residual(48, 32))
        self.coarse = nn.Sequential(conv(48, 64, 3, 2), Residual(64, 32))
        self.down = conv(64, 48, 1)
        self.merge = conv(96, 48, 1)
        self.head = nn.Sequential(conv(48, 48), separable(48))
        self.out = nn.Conv2d(48, 4 + classes, 1)
        nn.init.constant_(self.out.bias, 0.0)
        nn.init.constant_(self.out.bias[4:], -4.6)

    def raw(self, x):
        fine = self.fine(self.stem(x))
        up = F.interpolate(self.down(self.coarse(fine)), scale_factor=2.0, mode="nearest")
        return self.out(self.head(self.merge(torch.cat([fine, up], 1))))

    @staticmethod
    def boxes(raw, cells):
        """Raw head values [B, 4, N] to centre and size in model pixels."""
        centre = raw[:, :2] * STRIDE + cells
        return torch.cat([centre, torch.exp(raw[:, 2:4].clamp(-4, 4)) * BOX_UNIT], 1)

    @staticmethod
    def cells(height: int, width: int):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        return (torch.stack([x, y]).float() + 0.5).reshape(1, 2, -1) * STRIDE

    def forward(self, x):
        raw = self.raw(x).flatten(2)
        cells = self.cells(x.shape[2] // STRIDE, x.shape[3] // STRIDE)
        return torch.cat([self.boxes(raw, cells), raw[:, 4:].sigmoid()], 1)


# --- training -------------------------------------------------------------------------------------------------------


def giou_and_iou(a, b):
    """Of boxes [4, N] as centre and size."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    left, right = torch.minimum(ax - aw / 2, bx - bw / 2), torch.maximum(ax + aw / 2, bx + bw / 2)
    top, bottom = torch.minimum(ay - ah / 2, by - bh / 2), torch.maximum(ay + ah / 2, by + bh / 2)
    wide = (torch.minimum(ax + aw / 2, bx + bw / 2) - torch.maximum(ax - aw / 2, bx - bw / 2)).clamp(min=0)
    high = (torch.minimum(ay + ah / 2, by + bh / 2) - torch.maximum(ay - ah / 2, by - bh / 2)).clamp(min=0)
    inter, hull = wide * high, (right - left) * (bottom - top)
    union = aw * ah + bw * bh - inter
    iou = inter / union
    return iou - (hull - union) / hull, iou


def targets(batch: list[np.ndarray], size: tuple[int, int]):
    """Which cells answer for which box: the four whose centres are nearest, small boxes before large ones.

    Gives (picture, cell) indices with box and class for each, and per class the cells that count for nothing.
    """
    columns, rows = size[0] // STRIDE, size[1] // STRIDE
    owner = np.full((len(batch), rows * columns), -1, np.int64)
    mute = np.zeros((len(batch), len(NAMES), rows * columns), np.float32)
    boxes = []
    for i, objects in enumerate(batch):
        area = (objects[:, 3] - objects[:, 1]) * (objects[:, 4] - objects[:, 2])
        for cls, x1, y1, x2, y2, visible in objects[np.argsort(-area)]:
            cx, cy = (x1 + x2) / 2 / STRIDE, (y1 + y2) / 2 / STRIDE
            cells = []
            for gy in (round(cy) - 1, round(cy)):
                for gx in (round(cx) - 1, round(cx)):
                    if 0 <= gx < columns and 0 <= gy < rows:
                        cells.append(gy * columns + gx)
            if visible < VISIBLE:
                mute[i, int(cls), cells] = 1
                continue
            owner[i, cells] = len(boxes)
            boxes.append(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, cls))
    picture, cell = np.nonzero(owner >= 0)
    chosen = np.array(boxes, np.float32).reshape(-1, 5)[owner[picture, cell]]
    box, cls = torch.from_numpy(chosen[:, :4].T.copy()), torch.from_numpy(chosen[:, 4].astype(np.int64))
    return torch.from_numpy(picture), torch.from_numpy(cell), box, cls, torch.from_numpy(mute)


def loss_of(raw, batch, size):
    picture, cell, box, cls, mute = targets(batch, size)
    raw = raw.flatten(2)
    at = raw[picture, :, cell].T
    cells = Pitch.cells(size[1] // STRIDE, size[0] // STRIDE)[0][:, cell]
    predicted = torch.cat([at[:2] * STRIDE + cells, torch.exp(at[2:4].clamp(-4, 4)) * BOX_UNIT])
    giou, iou = giou_and_iou(predicted, box)
    ideal = torch.cat([(box[:2] - cells) / STRIDE, torch.log(box[2:] / BOX_UNIT)])
    shape = F.smooth_l1_loss(at[:4], ideal, beta=0.1, reduction="none").sum(0)
    # The score learns how good the box is (varifocal loss, Zhang et al. 2021).
    wanted = torch.zeros_like(raw[:, 4:])
    wanted[picture, cls, cell] = iou.detach().clamp(0.05, 1)
    score = raw[:, 4:].sigmoid()
    weight = torch.where(wanted > 0, wanted, 0.75 * score.detach() ** 2) * (1 - mute)
    # A class that is seen less often counts for more.
    rarity = torch.tensor([1.0, 1.6, 2.0])
    weight = weight * rarity[None, :, None]
    count = max(len(cls), 1)
    classify = (F.binary_cross_entropy_with_logits(raw[:, 4:], wanted, reduction="none") * weight).sum() / count
    each = rarity[cls]
    return classify + ((2 * (1 - giou) + 0.5 * shape) * each).sum() / count


def train(scenes: Scenes, choice: Scenes, args: argparse.Namespace) -> Pitch:
    """Trains for args.steps and gives the averaged weights that did best on the scenes to choose by."""
    torch.manual_seed(1)
    rngs = [np.random.default_rng([1, i]) for i in range(COPIES)]
    model = Pitch().to(memory_format=torch.channels_last)
    average = Pitch()
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    peak = 2e-3
    groups = [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, peak, fused=True)
    step, seen, spent, best = 0, 0.0, 0.0, -1.0
    checkpoint, chosen = args.work / "checkpoint.pt", args.work / "best.pt"
    if args.resume:
        if not checkpoint.exists():
            raise SystemExit(f"{checkpoint} is not there, so nothing can be resumed: leave out --resume")
        saved = torch.load(checkpoint, weights_only=True)
        for part, name in ((model, "model"), (average, "average"), (optimiser, "optimiser")):
            part.load_state_dict(saved[name])
        step, seen, spent, best = (saved[name] for name in ("step", "seen", "spent", "best"))
        for rng, state in zip(rngs, json.loads(saved["rng"])):
            rng.bit_generator.state = state
        print(f"resuming after step {step} of {args.steps}", flush=True)
    floats = [
        (a, b)
        for a, b in zip(average.state_dict().values(), model.state_dict().values())
        if a.dtype.is_floating_point
    ]
    mine, theirs = [a for a, _ in floats], [b for _, b in floats]
    # The copies have the same weights, but gradients and running means of their own; those of the first are kept.
    copies = [model] + [copy.deepcopy(model) for _ in range(1, COPIES)]
    for other in copies[1:]:
        for a, b in zip(other.parameters(), model.parameters()):
            a.data = b.data

    def learn(mine: Pitch, rng: np.random.Generator, size: tuple[int, int], count: int) -> float:
        crops = [scenes.crop(rng, size) for _ in range(count)]
        x = torch.from_numpy(np.stack([p for p, _ in crops])).permute(0, 3, 1, 2)
        x = x.to(torch.bfloat16 if args.bf16 else torch.float32) / 255
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            raw = mine.raw(x.contiguous(memory_format=torch.channels_last))
        loss = loss_of(raw.float(), [b for _, b in crops], size) / COPIES
        mine.zero_grad(set_to_none=True)
        loss.backward()
        return loss.item()

    pool = ThreadPoolExecutor(args.threads, initializer=torch.set_num_threads, initargs=(1,))
    used, clock, first = time.process_time(), time.monotonic(), step
    while step < args.steps:
        # A steady rate up to a point, then down to nothing: the number of steps matters only from that point on.
        share = step / args.steps
        left = min(1.0, (1 - share) / (1 - FALL))
        rate = peak * min(1, (step + 1) / 200) * (0.5 - 0.5 * math.cos(math.pi * left)) + 1e-5
        for group in optimiser.param_groups:
            group["lr"] = rate
        # The last part sees whole pictures, as the model will.
        size, count = ((WIDTH, HEIGHT), args.batch // 4) if share > WHOLE else ((WIDTH // 2, HEIGHT // 2), args.batch)
        jobs = [pool.submit(learn, m, r, size, count // COPIES) for m, r in zip(copies, rngs)]
        loss = sum(job.result() for job in jobs)
        grads = [[p.grad for p in m.parameters()] for m in copies]
        for other in grads[1:]:
            torch._foreach_add_(grads[0], other)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
        step += 1
        keep = min(0.999, step / (step + 20))
        with torch.no_grad():
            torch._foreach_lerp_(mine, theirs, 1 - keep)
        seen = 0.99 * seen + 0.01 * loss if step > 1 else loss
        if step % 100 == 0:
            each = (time.monotonic() - clock) / (step - first)
            total = spent + time.process_time() - used
            print(
                f"step {step} of {args.steps}, loss {seen:.3f}, {total:.0f} s of CPU time, "
                f"about {each * (args.steps - step) / 60:.0f} min to go",
                flush=True,
            )
        if step % args.every == 0 or step == args.steps:
            found = score(average, choice)
            print("  AP@0.5 on scenes to choose by:", found, flush=True)
            if found["mean"] > best:
                best = found["mean"]
                torch.save(average.state_dict(), chosen)
                export(average, args.work / "best.onnx")
        if step % 500 == 0 or step == args.steps:
            # Replaced in one go: an interruption leaves the old one.
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
            state |= {"step": step, "seen": seen, "spent": spent + time.process_time() - used, "best": best}
            state["rng"] = json.dumps([rng.bit_generator.state for rng in rngs])
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
    average.load_state_dict(torch.load(chosen, weights_only=True))
    return average


# --- evaluation -----------------------------------------------------------------------------------------------------


def nms(boxes, scores, limit=0.5):
    # Weights that know nothing yet find something everywhere: more than this is not worth the time.
    order, keep = np.argsort(-scores)[:300], []
    while len(order):
        i, order = order[0], order[1:]
        keep.append(i)
        x1, y1 = np.maximum(boxes[i, 0], boxes[order, 0]), np.maximum(boxes[i, 1], boxes[order, 1])
        x2, y2 = np.minimum(boxes[i, 2], boxes[order, 2]), np.minimum(boxes[i, 3], boxes[order, 3])
        inter = (x2 - x1).clip(0) * (y2 - y1).clip(0)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = order[inter / (area[i] + area[order] - inter + 1e-9) < limit]
    return keep


def overlaps(box, others):
    wide = (np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])).clip(0)
    high = (np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])).clip(0)
    inter = wide * high
    area = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    return inter / ((box[2] - box[0]) * (box[3] - box[1]) + area - inter + 1e-9)


def score(model: Pitch, scenes: Scenes) -> dict[str, float]:
    """AP at IoU 0.5 per class, area under the interpolated precision-recall curve; boxes hardly visible are ignored."""
    model.eval()
    found = {c: [] for c in range(len(NAMES))}
    total = np.zeros(len(NAMES), int)
    for i in range(len(scenes)):
        with torch.no_grad():
            x = torch.from_numpy(scenes.rgb[i]).permute(2, 0, 1)[None].float() / 255
            out = model(x)[0].numpy()
        for c in range(len(NAMES)):
            truth = scenes.boxes[i][scenes.boxes[i][:, 0] == c]
            counts = truth[:, 5] >= VISIBLE
            total[c] += counts.sum()
            taken = np.zeros(len(truth), bool)
            mask = out[4 + c] > 0.01
            cx, cy, w, h = out[:4, mask]
            boxes, scores = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1), out[4 + c, mask]
            for k in nms(boxes, scores):
                over = overlaps(boxes[k], truth[:, 1:5]) if len(truth) else np.zeros(0)
                free = np.where(taken | ~counts, -1, over)
                if len(free) and free.max() >= 0.5:
                    taken[free.argmax()] = True
                    found[c].append((scores[k], True))
                elif not (len(over) and np.where(counts, -1, over).max() >= 0.5):
                    found[c].append((scores[k], False))
    model.train()
    result = {}
    for c, name in enumerate(NAMES):
        hits = np.array([hit for _, hit in sorted(found[c], key=lambda f: -f[0])], float)
        right = hits.cumsum()
        precision, recall = right / (np.arange(len(hits)) + 1), right / max(total[c], 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        result[name] = round(float((np.diff(recall, prepend=0) * precision).sum()), 4)
    result["mean"] = round(sum(result.values()) / len(NAMES), 4)
    return result


def export(model: Pitch, path: Path) -> None:
    import onnx

    model = model.eval()
    example = torch.zeros(2, 3, HEIGHT, WIDTH)
    torch.onnx.export(
        model,
        (example,),
        str(path),
        opset_version=17,
        input_names=["images"],
        output_names=["output0"],
        dynamic_axes={"images": {0: "batch"}, "output0": {0: "batch"}},
        dynamo=False,
    )
    graph = onnx.load(str(path))
    facts = {
        "description": "framegate demonstration model: players, referee and ball of drawn soccer scenes",
        "license": "MIT OR Apache-2.0",
        "task": "detect",
        "names": str(dict(enumerate(NAMES))),
        "imgsz": f"[{HEIGHT}, {WIDTH}]",
        "stride": str(STRIDE),
    }
    for key, value in facts.items():
        graph.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))
    model.train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "target" / "demo-model", help="folder for what is made")
    parser.add_argument("--scenes", type=int, default=5000, help="scenes to train on (0.7 MB of memory each)")
    parser.add_argument("--steps", type=int, default=20000, help="steps to train")
    parser.add_argument("--batch", type=int, default=16, help="quarter pictures per step")
    parser.add_argument("--every", type=int, default=3000, help="steps between looks at the scenes to choose by")
    parser.add_argument("--bf16", action="store_true", help="half precision, twice as fast where the CPU knows it")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the work folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "models" / "pitch.onnx")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    scenes, choice = Scenes(), Scenes()
    for folder in draw(args.work, TRAIN_SEED, args.scenes, args.threads):
        scenes.add(folder)
    for folder in draw(args.work, CHOICE_SEED, 200, args.threads):
        choice.add(folder)
    print(f"{len(scenes)} scenes; {sum(p.numel() for p in Pitch().parameters())} parameters", flush=True)
    model = train(scenes, choice, args)
    export(model, args.output)
    print("AP@0.5 on scenes not trained on:", score(model, choice))


if __name__ == "__main__":
    main()
