#!/usr/bin/env python3
"""Whether quality that gives way is worth it: how many of the labelled people are found under overload.

    cargo build --release
    benches/recall.py PICTURES --model models/yolox-nano.toml --lean models/fastestdet.toml

PICTURES is a folder of .jpg files with a .txt beside each (YOLO's form: class, centre and size as shares of the picture;
class 0 is a person). They are played as live streams, at once, twice what the detector can do, with the ladder and
without it. A labelled person counts as found where a result that was on time has a person whose box overlaps it by at least
half (intersection over union). A frame that was shed finds nobody.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import load  # noqa: E402


def pipeline(args, streams: int, fps: float, ladder: bool) -> str:
    text = load.pipeline(args, 0, fps, "framegate", ladder)
    for i in range(streams):
        text += f'[source.cam{i:02}]\nuri = "file://{args.pictures.resolve()}/*.jpg"\npace = "live"\nloop = true\nfps = {fps:.3f}\n'
    return text


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = lambda r: (r[2] - r[0]) * (r[3] - r[1])
    return width * height / (area(a) + area(b) - width * height)


def people(picture: Path) -> list[list[float]]:
    """Boxes as shares of the picture: left, top, right, bottom."""
    boxes = []
    for line in picture.with_suffix(".txt").read_text().splitlines():
        kind, x, y, w, h = map(float, line.split()[:5])
        if kind == 0:
            boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return boxes


def recall(results: Path, truth: list[list[list[float]]], captured: int, streams: int) -> tuple[int, int]:
    """People found, and people there were in all captured frames."""
    there = sum(len(truth[n % len(truth)]) for n in range(captured // streams)) * streams
    found = 0
    for line in results.read_text().splitlines():
        result = json.loads(line)
        if not result["on_time"]:
            continue
        width, height = result["size"]
        seen = [d["box"] for d in result.get("detections", []) if d["label"] == "person"]
        seen = [[b[0] / width, b[1] / height, b[2] / width, b[3] / height] for b in seen]
        for person in truth[result["seq"] % len(truth)]:
            best = max(range(len(seen)), key=lambda i: overlap(person, seen[i]), default=None)
            # One detection finds one person.
            if best is not None and overlap(person, seen[best]) >= 0.5:
                found += 1
                seen.pop(best)
    return found, there


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lean", type=Path, required=True)
    parser.add_argument("--load", type=float, default=2.0)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.clip, args.size, args.no_prediction = None, [640, 360], True
    truth = [people(p) for p in sorted(args.pictures.glob("*.jpg"))]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        file, report, results = folder / "load.toml", folder / "report.json", folder / "results.jsonl"

        def run(streams: int, fps: float, ladder: bool, seconds: int) -> dict:
            results.unlink(missing_ok=True)
            file.write_text(pipeline(args, streams, fps, ladder))
            return load.framegate("run", file, report, "--http", "off", "--for", f"{seconds}s")

        once = run(1, 15.0, False, 6)
        capacity = 1000 / once["stages"]["detect"]["work_ms"]["p50"]
        offered = args.load * capacity
        streams = max(1, round(offered / load.FPS))
        print(f"{streams} streams, {offered:.0f} frames per second, {args.load:g} times what {args.model.stem} can do\n")
        print("| | on time | people found | of | recall | rungs |\n|---|---|---|---|---|---|")
        for name, ladder in [("shedding alone", False), ("with the ladder", True)]:
            row = load.figures(run(streams, offered / streams, ladder, args.seconds))
            found, there = recall(results, truth, row["captured"], streams)
            rungs = ", ".join(f"{n} {share:.0%}" for n, share in row["rungs"].items() if share > 0.0005)
            print(f"| {name} | {1 - row['missed']:.1%} | {found} | {there} | {found / max(there, 1):.3f} | {rungs} |")


if __name__ == "__main__":
    main()
