#!/usr/bin/env python3
"""Writes golden.json beside this file: spectrograms computed with NumPy and SciPy only, in double precision.

    python3 tests/signal/golden.py            # writes
    python3 tests/signal/golden.py --check    # computes again and compares; with librosa installed, with its results too

The test in tests/signal/parity.rs makes the same signals by the same formulas, so that the file holds results only, and of
these a part: some columns of each matrix.
"""

import json
import pathlib
import sys

import numpy as np
import scipy.signal

FILE = pathlib.Path(__file__).with_name("golden.json")


def noise(n, seed):
    """Pseudo-random numbers, -1 to 1: a linear congruential generator modulo 2^64."""
    out = np.empty(n)
    state = seed
    for i in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out[i] = (state >> 40) / 2.0**23 - 1.0
    return out


def real_signal(n, rate):
    """A chirp, a steady tone and noise, as 32-bit floats."""
    t = np.arange(n) / rate
    x = 0.4 * np.sin(2 * np.pi * (200.0 * t + 300.0 * t * t)) + 0.2 * np.sin(2 * np.pi * 3000.0 * t) + 0.05 * noise(n, 1)
    return x.astype(np.float32).astype(np.float64)


def complex_signal(n):
    """A tone a fifth of the rate below the centre, one an eighth above, and noise."""
    i = np.arange(n)
    x = 0.5 * np.exp(-2j * np.pi * 0.2 * i) + 0.1 * np.exp(2j * np.pi * 0.125 * i) + 0.02 * (noise(n, 2) + 1j * noise(n, 3))
    return x.astype(np.complex64).astype(np.complex128)


def window(name, n):
    if name == "kaiser":
        return scipy.signal.get_window(("kaiser", 8.6), n)
    return scipy.signal.get_window(name, n)


def columns(x, size, hop, win, padding):
    """The transforms: bins x columns."""
    if padding:
        x = np.pad(x, size // 2, mode={"zero": "constant", "reflect": "reflect"}[padding])
    count = (len(x) - size) // hop + 1
    frames = np.stack([x[i * hop : i * hop + size] * win for i in range(count)], axis=1)
    if np.iscomplexobj(x):
        return np.fft.fftshift(np.fft.fft(frames, axis=0), axes=0)
    return np.fft.rfft(frames, axis=0)


def mel_bank(rate, size, bands, low, high, htk, equal_area):
    if htk:
        to = lambda f: 2595.0 * np.log10(1.0 + np.asarray(f, float) / 700.0)
        back = lambda m: 700.0 * (10.0 ** (m / 2595.0) - 1.0)
    else:
        step = np.log(6.4) / 27.0
        to = lambda f: np.where(np.asarray(f) < 1000.0, np.asarray(f) * 3.0 / 200.0, 15.0 + np.log(np.maximum(f, 1e-9) / 1000.0) / step)
        back = lambda m: np.where(m < 15.0, m * 200.0 / 3.0, 1000.0 * np.exp((m - 15.0) * step))
    edges = back(np.linspace(to(low), to(high), bands + 2))
    hz = np.linspace(0.0, rate / 2.0, size // 2 + 1)
    bank = np.zeros((bands, len(hz)))
    for b in range(bands):
        left, peak, right = edges[b : b + 3]
        bank[b] = np.maximum(0.0, np.minimum((hz - left) / (peak - left), (right - hz) / (right - peak)))
        if equal_area:
            bank[b] *= 2.0 / (right - left)
    return bank


def decibels(s, top):
    d = 10.0 * np.log10(np.maximum(s, 1e-10) / max(s.max(), 1e-10))
    return np.maximum(d, d.max() - top)


def cases():
    rate = 22050
    clip = real_signal(220500, rate)
    power = np.abs(columns(clip, 2048, 512, window("hann", 2048), "zero")) ** 2
    mel = mel_bank(rate, 2048, 128, 0.0, rate / 2, False, True) @ power
    assert mel.shape == (128, 431)
    yield "mel-slaney", mel
    yield "mel-slaney-db", decibels(mel, 80.0)
    db = decibels(mel, 80.0)
    yield "mel-slaney-db-minmax", (db - db.min()) / (db.max() - db.min())
    yield "mel-slaney-db-z", (db - db.mean()) / db.std()
    log = np.log(np.maximum(mel, 1e-10))
    yield "mel-slaney-log-rows", (log - log.mean(axis=1, keepdims=True)) / log.std(axis=1, keepdims=True)
    reflected = np.abs(columns(clip, 2048, 512, window("hann", 2048), "reflect")) ** 2
    yield "mel-htk", mel_bank(rate, 2048, 64, 50.0, 8000.0, True, False) @ reflected
    short = clip[:20000]
    yield "linear-magnitude", np.abs(columns(short, 512, 160, window("hamming", 512), None))
    iq = complex_signal(20000)
    for name in ["hann", "blackman", "blackmanharris", "flattop", "kaiser"]:
        win = window(name, 256)
        yield "complex-" + name, np.abs(columns(iq, 256, 100, win, None) / win.sum()) ** 2
    # A Welch estimate by SciPy's own implementation: the averaged spectrum, in power per bin.
    win = window("hann", 1024)
    _, welch = scipy.signal.welch(
        iq, 1.0, win, 1024, 512, detrend=False, return_onesided=False, scaling="spectrum"
    )
    yield "welch", np.fft.fftshift(welch).reshape(-1, 1)


def picked(matrix):
    """Some columns: the first, the last, and some between."""
    n = matrix.shape[1]
    at = sorted({0, 1, n // 3, n // 2, n - 2, n - 1} & set(range(n)))
    return {"shape": matrix.shape, "columns": {str(i): [float(f"{v:.8g}") for v in matrix[:, i]] for i in at}}


def against_librosa():
    try:
        import librosa
    except ImportError:
        print("librosa is not here: not compared")
        return
    clip = real_signal(220500, 22050)
    made = dict(cases())
    theirs = librosa.feature.melspectrogram(y=clip, sr=22050, n_fft=2048, hop_length=512, n_mels=128, dtype=np.float64)
    np.testing.assert_allclose(made["mel-slaney"], theirs, rtol=1e-6)
    np.testing.assert_allclose(made["mel-slaney-db"], librosa.power_to_db(theirs, ref=np.max), rtol=1e-6, atol=1e-6)
    print("equal to librosa", librosa.__version__)


def main():
    made = {name: picked(matrix) for name, matrix in cases()}
    if "--check" in sys.argv[1:]:
        assert json.loads(FILE.read_text()) == json.loads(json.dumps(made)), "golden.json is not what this script computes"
        print("golden.json is up to date")
        against_librosa()
    else:
        FILE.write_text(json.dumps(made, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
