#!/usr/bin/env python3
"""What framegate delivers at half, nine tenths, one, one and a half, two and four times what the machine can do.

    cargo build --release
    benches/load.py --model models/yolox-nano.toml --lean models/fastestdet.toml -o load

Every run is a framegate of its own on live scenes that are drawn, not encoded, so that decoding takes nothing from the
detector. Load 1 is the goodput of a first run that is offered twice as much as one detector can do. With `--encoded` streams
are an H.264 clip of such a scene, played as often as there are streams and decoded on the same cores; beside the goodput
stands then what decoding leaves of load 1: all of it while a core is left for the detector, else that share of it. Runs: framegate without a ladder, with one (the detector, the lean one, the lean one on every second
frame), first come first served, and one waiting frame for each stream of which the newest stays. Beside them stands what
`framegate simulate` predicts with the costs of the same run. Writes load.json, load.md and load.svg into the folder.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "framegate"
DEADLINE_MS = 33
FPS = 30.0


def pipeline(args, streams: int, fps: float, policy: str, ladder: bool) -> str:
    text = f'[pipeline]\nname = "load"\nfps = {fps:.3f}\ndeadline = "{DEADLINE_MS}ms"\nadmission = "off"\npolicy = "{policy}"\n'
    for i in range(streams):
        text += f"[source.cam{i:02}]\n"
        if args.clip:
            text += f'uri = "file://{args.clip}"\npace = "live"\nloop = true\n'
            continue
        text += f'uri = "test://pitch"\nencoded = false\nfps = {fps:.3f}\n'
        text += f"width = {args.size[0]}\nheight = {args.size[1]}\n"
    text += f'[stage.detect]\nkind = "detect"\nmodel = "{args.model.resolve()}"\n'
    text += f'device = "{args.device}"\nthreads = {args.threads}\n[stage.track]\nkind = "track"\n'
    text += '[sink.out]\nkind = "jsonl"\npath = "results.jsonl"\n'
    if ladder:
        text += f'[[rung]]\nname = "full"\n[[rung]]\nname = "lean"\ndetect.model = "{args.lean.resolve()}"\n'
        text += '[[rung]]\nname = "sparse"\ndetect.every = 2\n'
    return text


def environment(log: str) -> dict:
    """Runs are started in a folder of their own, where the library beside the checkout would not be found."""
    library = ROOT / ".runtime/onnxruntime/libonnxruntime.so"
    found = {"ORT_DYLIB_PATH": str(library)} if library.exists() else {}
    return {"RUST_LOG": log, **found, **os.environ}


def framegate(command: str, file: Path, report: Path, *more: str) -> dict:
    call = [PROGRAM, command, file, *more, "--report", report]
    subprocess.run(call, cwd=file.parent, env=environment("warn"), stdout=subprocess.DEVNULL, check=True)
    return json.loads(report.read_text())


def figures(report: dict) -> dict:
    """Goodput and the like over all streams. Quantiles are the worst stream's."""
    streams = report["streams"].values()
    total = {k: sum(s["frames"][k] for s in streams) for k in next(iter(streams))["frames"]}
    ended = sum(total[k] for k in ("on_time", "late", "shed", "evicted", "failed", "in_flight"))
    assert ended == total["captured"] and total["in_flight"] == 0, f"frames without an outcome: {total}"
    on_time = [s["frames"]["on_time"] for s in streams]
    delivered = max(total["on_time"] + total["late"], 1)
    shares = {}
    for s in streams:
        for rung, share in s["rung_share"].items():
            weight = (s["frames"]["on_time"] + s["frames"]["late"]) / delivered
            shares[rung] = round(shares.get(rung, 0) + share * weight, 3)
    worst = lambda key: max((s["latency_ms"][key] or 0) for s in streams)
    return {
        "goodput": total["on_time"] / report["seconds"],
        "missed": 1 - total["on_time"] / max(total["captured"], 1),
        "late": total["late"] / delivered,
        "p50": worst("p50"),
        "p99": worst("p99"),
        "max": worst("max"),
        "worst_over_mean": min(on_time) * len(on_time) / max(sum(on_time), 1),
        "inferred": sum(s["fps"]["inferred"] for s in streams),
        "rungs": shares,
        "rung_changes": sum(s["rung_changes"] for s in streams),
        "rescued": sum(s["rescued"] for s in streams),
        "captured": total["captured"],
        "cores": report["process"]["cpu_seconds"] / max(report["seconds"], 0.001),
    }


def measure(args, folder: Path, rate: float, policy: str = "framegate", ladder: bool = False, predict: bool = False) -> dict:
    """One run that is offered `rate` frames per second."""
    streams = max(1, round(rate / FPS))
    # A clip has a rate of its own.
    fps = FPS if args.clip else rate / streams
    file, report = folder / "load.toml", folder / "report.json"
    file.write_text(pipeline(args, streams, fps, policy, ladder))
    row = figures(framegate("run", file, report, "--http", "off", "--for", f"{args.seconds}s"))
    row |= {"streams": streams, "offered": streams * fps}
    if predict:
        more = ["--costs", report, "--for", f"{args.seconds}s", "--seed", "1", "--policy", policy]
        row["predicted"] = figures(framegate("simulate", file, folder / "simulated.json", *more))
    return row


def record(args, folder: Path) -> Path:
    """A scene as a clip of ten seconds."""
    text = f'[pipeline]\nname = "clip"\nfps = {FPS}\n[source.cam]\nuri = "test://pitch"\nfps = {FPS}\n'
    text += f"width = {args.size[0]}\nheight = {args.size[1]}\n"
    text += f'[sink.clip]\nkind = "video"\npath = "{folder}/{{stream}}-{{start}}.mkv"\n'
    (folder / "clip.toml").write_text(text)
    call = [PROGRAM, "run", folder / "clip.toml", "--http", "off", "--for", "10s"]
    subprocess.run(call, env=environment("warn"), stdout=subprocess.DEVNULL, check=True)
    return next(folder.glob("cam-*.mkv"))


def table(rows: list[dict]) -> str:
    lines = [
        "| run | load | streams | goodput/s | missed | late | p50 ms | p99 ms | worst stream/mean | rungs | predicted goodput, p99 | cores allow |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        rungs = ", ".join(f"{name} {share:.0%}" for name, share in r["rungs"].items() if share > 0.0005)
        p = r.get("predicted")
        predicted = f"{p['goodput']:.1f}, {p['p99']:.1f}" if p else ""
        allowed = f"{r['allowed']:.1f}, got {r['goodput'] / r['allowed']:.0%}" if r.get("allowed") else ""
        lines.append(
            f"| {r['run']} | {r['load']:g} | {r['streams']} | {r['goodput']:.1f} | {r['missed']:.1%} | {r['late']:.1%} | {r['p50']:.1f} "
            f"| {r['p99']:.1f} | {r['worst_over_mean']:.2f} | {rungs} | {predicted} | {allowed} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: list[dict], capacity: float) -> str:
    """Goodput over load, a line for each kind of run, and the predictions as rings."""
    width, height, left, top = 640, 360, 60, 20
    loads = [r["load"] for r in rows]
    highest = max([capacity * 1.1] + [r["goodput"] for r in rows]) * 1.05
    x = lambda load: left + (width - left - 150) * load / max(loads)
    y = lambda goodput: height - 40 - (height - 40 - top) * goodput / highest
    colours = ["#1b7f5c", "#2563c9", "#b45309", "#8b3fa8", "#64748b"]
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for k in range(6):
        value = highest * k / 5
        out.append(f'<path d="M{left} {y(value):.1f}H{width - 150}" stroke="#e2e8f0"/>')
        out.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end" fill="#334155">{value:.0f}</text>')
    for load in sorted(set(loads)):
        out.append(f'<text x="{x(load):.1f}" y="{height - 22}" text-anchor="middle" fill="#334155">{load:g}</text>')
    out.append(f'<text x="{(left + width - 150) / 2}" y="{height - 5}" text-anchor="middle" fill="#334155">offered load</text>')
    out.append(f'<text x="{left}" y="{top - 6}" fill="#334155">frames on time per second</text>')
    for n, run in enumerate(dict.fromkeys(r["run"] for r in rows)):
        mine, colour = [r for r in rows if r["run"] == run], colours[n % len(colours)]
        points = " ".join(f"{x(r['load']):.1f},{y(r['goodput']):.1f}" for r in mine)
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for r in mine:
            if "predicted" in r:
                out.append(f'<circle cx="{x(r["load"]):.1f}" cy="{y(r["predicted"]["goodput"]):.1f}" r="4" fill="none" stroke="{colour}"/>')
        out.append(f'<text x="{width - 140}" y="{top + 20 + 18 * n}" fill="{colour}">{run}</text>')
    out.append(f'<text x="{width - 140}" y="{height - 50}" fill="#334155">○ predicted</text></svg>')
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/pitch.toml", help="detector of the best rung")
    parser.add_argument("--lean", type=Path, help="detector of the rungs below; without it there is no run with a ladder")
    parser.add_argument("--loads", default="0.5,0.9,1,1.5,2,4")
    parser.add_argument("--runs", default="framegate,ladder,fifo,drop-oldest")
    parser.add_argument("--seconds", type=int, default=20, help="length of a run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=lambda t: [int(n) for n in t.split("x")], default=[640, 360])
    parser.add_argument("--encoded", action="store_true")
    parser.add_argument("--no-prediction", action="store_true")
    parser.add_argument("-o", "--output", type=Path, default=Path("load"))
    args = parser.parse_args()
    args.clip = None
    if not PROGRAM.exists():
        sys.exit(f"{PROGRAM} is not there: cargo build --release")
    args.output.mkdir(parents=True, exist_ok=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        alone = folder / "report.json"
        (folder / "load.toml").write_text(pipeline(args, 1, FPS, "framegate", False))
        once = framegate("run", folder / "load.toml", alone, "--http", "off", "--for", "6s")
        rate = 1000 / once["stages"]["detect"]["work_ms"]["p50"]
        capacity = measure(args, folder, 2 * rate)["goodput"]
        if args.encoded:
            args.clip = record(args, folder)
        print(f"load 1: {capacity:.1f} frames per second", file=sys.stderr)
        for run in args.runs.split(","):
            ladder = run == "ladder"
            if ladder and not args.lean:
                continue
            policy = "framegate" if ladder else run
            for load in map(float, args.loads.split(",")):
                row = measure(args, folder, load * capacity, policy, ladder, not args.no_prediction)
                if args.encoded:
                    # A frame takes of the cores what it takes where nothing is decoded.
                    beside = row["cores"] - row["inferred"] / capacity * args.threads
                    left = max(0.0, (os.cpu_count() or 1) - beside)
                    row["allowed"] = min(row["offered"], capacity * min(1.0, left / args.threads))
                rows.append({"run": "framegate, ladder" if ladder else run, "load": load} | row)
                print(table(rows[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    (args.output / "load.json").write_text(json.dumps({"capacity": capacity, "rows": rows}, indent=1))
    (args.output / "load.md").write_text(table(rows))
    (args.output / "load.svg").write_text(plot(rows, capacity))
    print(table(rows))


if __name__ == "__main__":
    main()
