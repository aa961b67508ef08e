"""How each precision and calibration method keeps a network's predictions on some photographs.

    python tests/bench/calibration.py --frozen_graph=net.pb --image_dir=photos --preprocessing=none

Calibrates on the same photographs. Prints how many keep native's first class: of all, and of those
of which native is sure (over 0.5 for FP16, 0.6 for INT8). The graph for TensorRT is computed by
ONNX Runtime with all optimisation off.
"""

import os
import sys
import tempfile
import time

import numpy as np
import onnxruntime
from overhead import load

SURE = {"fp16": 0.5, "int8": 0.6}


def run(bench, model, samples, exactly):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exactly:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run(None, sample)[0].reshape(1, -1) for sample in samples])


def main():
    bench = load()
    with tempfile.TemporaryDirectory() as folder:
        config = bench.parse_flags([*sys.argv, f"--output_dir={folder}"])
        graph = bench.load_graph(config)
        images = bench.load_images(config, graph, 1000)
        samples = bench.feeds(graph, images)
        cases = [("onnxruntime", "fp16", "-")]
        for engine in ("onnxruntime", "tensorrt"):
            cases += [(engine, "int8", method) for method in ("minmax", "percentile", "entropy")]
        native = None
        for engine, precision, config.calibration_method in cases:
            onnx = bench.Onnx(config, graph, images)
            native = run(bench, onnx.fp32, samples, False) if native is None else native
            start = time.perf_counter()
            model, _ = onnx.model(engine, precision)
            seconds = time.perf_counter() - start
            same = run(bench, model, samples, engine == "tensorrt").argmax(axis=1) == native.argmax(
                axis=1
            )
            sure = native.max(axis=1) > SURE[precision]
            head = f"{graph.name:34} {engine:12} {precision} {config.calibration_method:11}"
            print(
                head,
                f"{same.sum():3} of {len(same)}, sure ones {same[sure].sum():3} of {sure.sum()}, "
                f"{seconds:5.1f} s",
            )
    print(
        f"{bench.device_name(config)}, int8 saturates: {bench.int8_saturates()}, load "
        f"{os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
