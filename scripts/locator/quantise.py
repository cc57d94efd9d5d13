"""INT8 versions of the locator, dynamic and static, and what they cost and give."""

import time
from pathlib import Path

import numpy as np

from .simulate import BANDS, LEAST


def spectrograms(pooled: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Spectrograms in dB [n, stations, BANDS, COLUMNS] with these pooled powers: the same to the network as the
    simulated ones, whose bands it adds up."""
    power = np.where(present[:, :, None] > 0, pooled / BANDS, LEAST)
    level = (10 * np.log10(np.maximum(power, LEAST))).astype(np.float32)
    return np.repeat(level[:, :, None], BANDS, 2)


def session(path: Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, pooled: np.ndarray, present: np.ndarray, batch: int = 8) -> list[np.ndarray]:
    """Outputs of a model file: position, spread, confidence."""
    network = session(path)
    parts = [
        network.run(None, {"spectrograms": spectrograms(pooled[i : i + batch], present[i : i + batch])})
        for i in range(0, len(pooled), batch)
    ]
    return [np.concatenate(column) for column in zip(*parts)]


def dynamic(model: Path, out: Path) -> None:
    """Weights as integers, each layer's input measured when it runs."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(model, out, weight_type=QuantType.QInt8, per_channel=True)


def static(model: Path, out: Path, pooled: np.ndarray, present: np.ndarray) -> None:
    """Weights and layers' inputs as integers, ranges measured on these windows. Pooling stays as it is: its powers span
    ten decades. So do the outputs' layers: 8 bits over the whole square would be steps of 60 m."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Windows(CalibrationDataReader):
        def __init__(self):
            self.next = 0

        def get_next(self):
            i, self.next = self.next, self.next + 8
            if i >= len(pooled):
                return None
            return {"spectrograms": spectrograms(pooled[i : i + 8], present[i : i + 8])}

    layers = [n.name for n in onnx.load(str(model)).graph.node if n.op_type in ("Gemm", "MatMul")]
    hidden = [name for name in layers if name.startswith(("/first", "/hidden"))]
    assert hidden, f"no hidden layers among {layers}"
    quantize_static(
        model,
        out,
        Windows(),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=hidden,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


def milliseconds(paths: dict[str, Path], batch: int, stations: int, rounds: int = 15) -> dict[str, float]:
    """Milliseconds of a batch on one thread: the median of rounds that the models take in turn."""
    rng = np.random.default_rng(1)
    feed = {"spectrograms": rng.uniform(-100, -60, (batch, stations, BANDS, 431)).astype(np.float32)}
    sessions = {name: session(path) for name, path in paths.items()}
    times = {name: [] for name in paths}
    for turn in range(rounds + 2):
        for name, network in sessions.items():
            begin = time.perf_counter()
            for _ in range(5):
                network.run(None, feed)
            if turn >= 2:
                times[name].append((time.perf_counter() - begin) / 5 * 1000)
    return {name: float(np.median(t)) for name, t in times.items()}
