#!/usr/bin/env python3
"""Processor time of one chain in framegate, GNU Radio and FutureSDR. Started by scripts/bench-radio, which sets them up.

Complex samples from a file in memory, Hann window, FFT of 1024, the mean of ten power spectra, nothing written. Every round
runs each program once, the first of them another one each time; stated are medians over the rounds. From each run's
processor time (user and system, all threads, from the kernel) the same program's time for an almost empty file is taken off,
so that no interpreter's or library's start counts.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release" / "framegate"
SIZE, AVERAGE = 1024, 10
GROUP = SIZE * AVERAGE
BYTES = {"cf32": 8, "ci16": 4}
PATIENCE = 300

PIPELINE = """
[pipeline]
name     = "radio"
fps      = {fps}
deadline = "none"

[source.radio]
uri         = "iqfile://{path}"
samples     = "{form}"
sample_rate = {stream_rate}
pace        = "{pace}"
block       = "{block}ms"

[stage.spectrum]
kind    = "spectrum"
size    = 1024
average = 10
levels  = {levels}
"""
SINK = '[sink.out]\nkind = "jsonl"\npath = "/dev/null"\n'


def write(path: Path, form: str, samples: int) -> None:
    """Noise at a tenth of full scale, one piece again and again."""
    import random
    import struct

    noise = random.Random(1)
    values = [noise.uniform(-0.1, 0.1) for _ in range(2 * GROUP)]
    if form == "cf32":
        piece = struct.pack(f"<{len(values)}f", *values)
    else:
        piece = struct.pack(f"<{len(values)}h", *(round(v * 32767) for v in values))
    with open(path, "wb") as file:
        for _ in range(samples // GROUP):
            file.write(piece)


def framegate(levels: bool):
    def call(folder: Path, path: Path, form: str, rate: float) -> list:
        stream_rate = rate or 2.4e6
        block = 10
        text = PIPELINE.format(
            path=path, form=form, stream_rate=stream_rate, block=block, fps=1000 / block,
            pace="live" if rate else "fast", levels=str(levels).lower(),
        )
        file = folder / "radio.toml"
        file.write_text(text + (SINK if levels else ""))
        return [PROGRAM, "run", file, "--http", "off"]

    return call


def peer(*program):
    return lambda folder, path, form, rate: [*program, path, form, str(rate)]


def measure(call: list) -> float:
    """Seconds of processor time of a run."""
    library = ROOT / ".runtime/onnxruntime/libonnxruntime.so"
    found = {"ORT_DYLIB_PATH": str(library)} if library.exists() else {}
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            call, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log, env={"RUST_LOG": "warn", **found, **os.environ}
        )
        end = time.monotonic() + PATIENCE
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                child.returncode = os.waitstatus_to_exitcode(status)
                break
            if time.monotonic() > end:
                child.kill()
                os.wait4(child.pid, 0)
                sys.exit(f"{call[0]} did not end within {PATIENCE} s")
            time.sleep(0.01)
        if child.returncode != 0:
            log.seek(0)
            sys.exit(f"{call}: {child.returncode}\n{log.read().decode(errors='replace')}")
    return usage.ru_utime + usage.ru_stime


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="length of paced runs")
    parser.add_argument("--futuresdr", type=Path, help="the program that scripts/bench-radio builds")
    parser.add_argument("--gnuradio", action="store_true")
    args = parser.parse_args()

    programs = {"framegate": framegate(False), "framegate, levels as JSON": framegate(True)}
    if args.gnuradio:
        programs["GNU Radio"] = peer("/usr/bin/python3", Path(__file__).parent / "gnuradio_chain.py")
    if args.futuresdr:
        programs["FutureSDR"] = peer(args.futuresdr)
    cases = [(form, rate) for form in BYTES for rate in (0, 2.4e6, 20e6)]
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        folder = Path(folder)
        taken: dict = {}
        for form, rate in cases:
            samples = int((rate or 10e6) * (args.seconds if rate else 4)) // GROUP * GROUP
            full, empty = folder / f"full.{form}", folder / f"empty.{form}"
            write(full, form, samples)
            write(empty, form, GROUP)
            for n in range(args.rounds):
                order = list(programs)
                order = order[n % len(order) :] + order[: n % len(order)]
                for name in order:
                    start = measure(programs[name](folder, empty, form, rate))
                    work = measure(programs[name](folder, full, form, rate)) - start
                    taken.setdefault((form, rate, name), []).append(work * 1e3 / (samples / 1e6))
            full.unlink()
    print(f"{processor()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}, {args.rounds} rounds\n")
    print("CPU ms for a million samples: median (least to most), and how many times framegate's it is\n")
    print("| Samples, pace | " + " | ".join(programs) + " |")
    print("|---" * (len(programs) + 1) + "|")
    for form, rate in cases:
        line = f"| {form}, " + (f"{rate / 1e6:g} MS/s" if rate else "unpaced")
        base = statistics.median(taken[form, rate, "framegate"])
        for name in programs:
            times = taken[form, rate, name]
            median = statistics.median(times)
            line += f" | {median:.2f} ({min(times):.2f} to {max(times):.2f}), {median / base:.2f}×"
        print(line + " |")


if __name__ == "__main__":
    main()
