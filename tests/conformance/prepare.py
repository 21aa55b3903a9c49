"""Writes the ONNX backend tests as folders: model.onnx, test_data_set_N/{input,output}_K.pb, tolerance.json.

Run it with a Python that has the pinned packages, and name the folder to fill:

    python3 -m venv VENV && VENV/bin/pip install onnx==1.23.2 numpy
    VENV/bin/python tests/conformance/prepare.py OUT

OUT then holds node/ (1884 cases, which the package builds in memory), simple/, pytorch-operator/, pytorch-converted/
(folders the package ships), light/ (nine image networks whose weights are made by nodes of the graph; their input
is the ramp i/n that ONNX's own runner feeds them) and types/ (see sweep.py). A second run finds OUT complete and only prints the counts.

Inputs are numbered as the graph's inputs that are not initializers; each file holds the message that the port's type
asks for: TensorProto, SequenceProto, OptionalProto or MapProto. tolerance.json has the rtol and atol to compare with,
as numpy.testing.assert_allclose does; ONNX's runner compares bfloat16 with an rtol of at least 2**-6.
"""

import hashlib
import json
import pathlib
import shutil
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, TypeProto, ValueInfoProto, numpy_helper

from sweep import write_types

VERSION = "1.23.2"
SHIPPED = ["simple", "pytorch-operator", "pytorch-converted"]
DATA = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
# What the loader of onnx.backend.test gives to cases that state nothing.
RTOL, ATOL = 1e-3, 1e-7


def encoded(value: object, port: ValueInfoProto) -> bytes:
    """The message of `value`, of the kind that the type of `port` asks for."""
    return proto_of(value, port.name, port.type).SerializeToString(deterministic=True)


def proto_of(value: object, name: str, ty: TypeProto):
    """`value` as TensorProto, SequenceProto, OptionalProto or MapProto."""
    kind = ty.WhichOneof("value")
    if isinstance(value, TensorProto):
        value = numpy_helper.to_array(value) if kind != "tensor_type" else value
    if kind == "map_type":
        return numpy_helper.from_dict(value, name)
    if kind == "sequence_type":
        return numpy_helper.from_list(value, name)
    if kind == "optional_type":
        return numpy_helper.from_optional(value, name)
    if kind != "tensor_type":
        raise ValueError(f"{name}: no message for a value of type {kind}")
    if isinstance(value, TensorProto):
        out = TensorProto()
        out.CopyFrom(value)
        out.name = name
        return out
    return numpy_helper.from_array(np.asarray(value), name)


def write_tolerance(folder: pathlib.Path, rtol: float, atol: float) -> None:
    """Records the tolerances of one case."""
    (folder / "tolerance.json").write_text(json.dumps({"rtol": rtol, "atol": atol}) + "\n")


def write_node(out: pathlib.Path) -> None:
    """The node cases, from memory."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    for case in cases:
        folder = out / case.name
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(case.model.SerializeToString(deterministic=True))
        write_tolerance(folder, case.rtol, case.atol)
        graph = case.model.graph
        for number, (inputs, outputs) in enumerate(case.data_sets):
            data = folder / f"test_data_set_{number}"
            data.mkdir()
            for ports, values, side in [(graph.input, inputs, "input"), (graph.output, outputs, "output")]:
                if len(ports) != len(values):
                    raise ValueError(f"{case.name}: {len(ports)} {side}s, {len(values)} values")
                for k, (port, value) in enumerate(zip(ports, values)):
                    (data / f"{side}_{k}.pb").write_bytes(encoded(value, port))


def write_shipped(out: pathlib.Path, kind: str) -> None:
    """The cases the package ships as folders."""
    for source in sorted((DATA / kind).iterdir()):
        if not (source / "model.onnx").is_file():
            continue
        folder = out / source.name
        shutil.copytree(source, folder)
        stated = folder / "data.json"
        tolerance = json.loads(stated.read_text()) if stated.is_file() else {}
        write_tolerance(folder, tolerance.get("rtol", RTOL), tolerance.get("atol", ATOL))


def ramp(port: ValueInfoProto) -> np.ndarray:
    """The input that ONNX's runner makes up for a light model: i/n in row-major order."""
    if port.type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ValueError(f"{port.name}: a light model has float inputs")
    dims = [d.dim_value if d.HasField("dim_value") else 1 for d in port.type.tensor_type.shape.dim]
    n = int(np.prod(dims))
    return (np.arange(n).reshape(dims) / n).astype(np.float32)


def write_light(out: pathlib.Path) -> None:
    """The light models, with the inputs of ONNX's runner and the recorded outputs."""
    for stated in sorted((DATA / "real").glob("*/data.json")):
        case = json.loads(stated.read_text())
        source = DATA / "light" / pathlib.Path(case["url"]).name
        folder = out / stated.parent.name
        data = folder / "test_data_set_0"
        data.mkdir(parents=True)
        shutil.copy(source, folder / "model.onnx")
        write_tolerance(folder, case.get("rtol", RTOL), case.get("atol", ATOL))
        graph = onnx.load(source).graph
        constants = {t.name for t in graph.initializer}
        for k, port in enumerate(p for p in graph.input if p.name not in constants):
            (data / f"input_{k}.pb").write_bytes(encoded(ramp(port), port))
        for k in range(len(graph.output)):
            shutil.copy(source.with_name(f"{source.stem}_output_{k}.pb"), data / f"output_{k}.pb")


def main() -> int:
    """Fills the folder named on the command line."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    if onnx.__version__ != VERSION:
        print(f"this is onnx {onnx.__version__}, the cases are those of {VERSION}", file=sys.stderr)
        return 1
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    sources = [pathlib.Path(__file__), pathlib.Path(__file__).with_name("sweep.py")]
    state = hashlib.sha256(b"".join(s.read_bytes() for s in sources)).hexdigest()
    writers = {"node": write_node, **{kind: lambda to, kind=kind: write_shipped(to, kind) for kind in SHIPPED}, "light": write_light}
    writers["types"] = lambda to: write_types(to, out / "node")
    for kind, write in writers.items():
        folder, stamp = out / kind, out / f".{kind}.done"
        if not stamp.is_file() or stamp.read_text() != state:
            stamp.unlink(missing_ok=True)
            # Filled under another name first, so that a run cut short leaves nothing that looks complete.
            partial = out / f".{kind}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            stamp.write_text(state)
        print(f"{kind}: {sum(1 for _ in folder.glob('*/model.onnx'))} cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
