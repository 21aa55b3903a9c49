"""Runs cases (model.onnx, test_data_set_K/input_I.pb) by ONNX Runtime without optimizations; writes ort_I.pb beside them, or error.txt."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper


def run(case: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(case / "model.onnx"), options, providers=["CPUExecutionProvider"])
    for data in sorted(case.glob("test_data_set_*")):
        feeds = {}
        for i, port in enumerate(session.get_inputs()):
            feeds[port.name] = numpy_helper.to_array(onnx.load_tensor(str(data / f"input_{i}.pb")))
        for i, value in enumerate(session.run(None, feeds)):
            (data / f"ort_{i}.pb").write_bytes(numpy_helper.from_array(np.asarray(value)).SerializeToString())


def main() -> None:
    for folder in sys.argv[1:]:
        case = Path(folder)
        print("start", folder, flush=True)
        try:
            run(case)
        except Exception as e:  # Whatever it is, the case says so and the next one runs.
            (case / "error.txt").write_text(str(e))
        print("done", folder, flush=True)


main()
