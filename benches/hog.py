#!/usr/bin/env python3
"""How quality gives way to another program on the machine, and comes back.

    cargo build --release
    benches/hog.py --model models/yolox-nano.toml --lean models/fastestdet.toml

Runs framegate at nine tenths of what the machine can do (measured first). After 10 s one busy loop for each core starts
beside it, for 10 s. Prints when rungs changed and when frames missed their deadline, both counted from the start of the
busy loops, and how many frames were late or shed before, during and after them.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import load  # noqa: E402

BEFORE, HOG, AFTER = 10, 10, 10


def seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--lean", type=Path, required=True)
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    args.clip, args.size, args.seconds, args.no_prediction = None, [640, 360], 10, True
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "load.toml").write_text(load.pipeline(args, 1, load.FPS, "framegate", False))
        alone = load.framegate("run", folder / "load.toml", folder / "report.json", "--http", "off", "--for", "6s")
        capacity = load.measure(args, folder, 2000 / alone["stages"]["detect"]["work_ms"]["p50"])["goodput"]
        rate = args.load * capacity
        streams = max(1, round(rate / load.FPS))
        (folder / "load.toml").write_text(load.pipeline(args, streams, rate / streams, "framegate", True))
        length = BEFORE + HOG + AFTER + 1
        call = [load.PROGRAM, "run", "load.toml", "--http", "off", "--for", f"{length}s", "--report", "report.json"]
        with open(folder / "log", "w") as log:
            run = subprocess.Popen(call, cwd=folder, stderr=log, env={**load.environment("info"), "RUST_LOG": "info"})
            results = folder / "results.jsonl"
            while not (results.exists() and results.stat().st_size):
                time.sleep(0.05)
            time.sleep(BEFORE)
            began = time.time()
            burn = [sys.executable, "-c", "while True: pass"]
            hogs = [subprocess.Popen(burn) for _ in range(os.cpu_count() or 1)]
            time.sleep(HOG)
            for hog in hogs:
                hog.terminate()
            ended = time.time() - began
            run.wait()
            for hog in hogs:
                hog.wait()
        print(f"load {args.load}: {streams} streams, {rate:.1f} frames per second; busy loops from 0 to {ended:.1f} s")
        for line in re.sub(r"\x1b\[[0-9;]*m", "", (folder / "log").read_text()).splitlines():
            if "quality changed" in line:
                print(f"  {seconds(line.split()[0]) - began:+6.2f} s  {line.split('quality changed')[1].strip()}")
        late = []
        for line in (folder / "results.jsonl").read_text().splitlines():
            result = json.loads(line)
            if not result["on_time"]:
                late.append(seconds(result["captured_at"]) - began)
        print("late frames, captured at:", ", ".join(f"{t:+.2f}" for t in sorted(late)) or "none")
        report = json.loads((folder / "report.json").read_text())
        for name, s in report["streams"].items():
            print(f"  {name}: {s['frames']} {s['shed_reasons']}, p99 {s['latency_ms']['p99']} ms, rungs {s['rung_share']}, "
                  f"{s['rung_changes']} changes, {s['rescued']} rescued")


if __name__ == "__main__":
    main()
