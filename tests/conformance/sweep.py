"""Makes cases of the types that operators take: for each operator of the newest opset, and each type of each of its type
parameters, the first case of node/ whose operands of that parameter can be given in that type.

What is expected comes from onnx.reference. For 16-bit floats it is computed in f32 from the rounded operands, so that the
reference's own roundings between two steps do not count.
"""

import json
import pathlib
import warnings

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, defs, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

HALVES = {TensorProto.FLOAT16: 2e-3, TensorProto.BFLOAT16: 1.6e-2}
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, *HALVES}
COMPLEX = {TensorProto.COMPLEX64, TensorProto.COMPLEX128}
UNSIGNED = {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64, TensorProto.UINT4, TensorProto.UINT2}
# How numbers between two pixels become integers is left open; only cases that pick pixels are kept for them.
PICKING = {"GridSample", "Resize", "Upsample"}


def code_of(name: str) -> int | None:
    """The element type of `tensor(float16)`; none for sequences and the like."""
    if not name.startswith("tensor("):
        return None
    inner = name[7:-1]
    return TensorProto.DataType.Value({"float": "FLOAT", "double": "DOUBLE"}.get(inner, inner.upper()))


def given(value: np.ndarray, code: int) -> np.ndarray:
    """`value` as that type: fractions cut, signs dropped where there are none."""
    if code == TensorProto.STRING:
        return value.astype(str).astype(object)
    if np.iscomplexobj(value) and code not in COMPLEX:
        value = value.real
    if code in UNSIGNED:
        value = np.abs(value)
    return np.asarray(value).astype(helper.tensor_dtype_to_np_dtype(code))


class Case:
    """A case of node/ that is one node over tensors."""

    def __init__(self, folder: pathlib.Path):
        self.name = folder.name
        self.model = onnx.load(folder / "model.onnx")
        self.node = self.model.graph.node[0]
        opset = {o.domain: o.version for o in self.model.opset_import}.get(self.node.domain, 1)
        self.schema = defs.get_schema(self.node.op_type, opset, self.node.domain)
        self.tolerance = json.loads((folder / "tolerance.json").read_text())
        self.values = []
        for k in range(len(self.model.graph.input)):
            proto = onnx.TensorProto()
            proto.ParseFromString((folder / f"test_data_set_0/input_{k}.pb").read_bytes())
            self.values.append(numpy_helper.to_array(proto))

    @staticmethod
    def fits(folder: pathlib.Path) -> bool:
        """Whether the folder is such a case."""
        model = onnx.load(folder / "model.onnx")
        if "_expanded" in folder.name or len(model.graph.node) != 1 or model.functions:
            return False
        node = model.graph.node[0]
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            return False
        tensors = all(v.type.HasField("tensor_type") for v in model.graph.input)
        return tensors and (folder / "test_data_set_0").is_dir() and {i for i in node.input if i} == {v.name for v in model.graph.input}

    def parameters(self) -> dict[str, list[str]]:
        """The operands of each type parameter."""
        found: dict[str, list[str]] = {}
        for i, name in enumerate(self.node.input):
            if name:
                found.setdefault(self.schema.inputs[min(i, len(self.schema.inputs) - 1)].type_str, []).append(name)
        return found

    def attribute(self, name: str) -> object:
        """The value of an attribute, or None."""
        return next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), None)

    def suits(self, code: int) -> bool:
        """Whether the case says something definite for that type."""
        if self.node.op_type in PICKING and code not in FLOATS | COMPLEX:
            default = b"linear" if self.node.op_type == "GridSample" else b"nearest"
            if (self.attribute("mode") or default) != b"nearest":
                return False
        if self.node.op_type == "CastLike" and code == TensorProto.STRING:
            return False  # numpy writes NaN another way than the standard
        return self.node.op_type != "TfIdfVectorizer" or (code == TensorProto.STRING) == (self.attribute("pool_strings") is not None)

    def operands(self, names: list[str], code: int) -> list[np.ndarray]:
        """The values with those of `names` in that type."""
        out = []
        for port, value in zip(self.model.graph.input, self.values):
            casts = self.node.op_type == "CastLike" and code not in FLOATS | {TensorProto.STRING}
            if casts and value.dtype != object:
                # What no integer holds is left to the machine.
                value = np.clip(np.nan_to_num(value.astype(np.float64), nan=1.0, posinf=1.0, neginf=1.0), 0, 1).astype(value.dtype)
            if port.name in names:
                if "zero_point" in port.name and code not in UNSIGNED and not np.issubdtype(helper.tensor_dtype_to_np_dtype(code), np.signedinteger):
                    value = np.zeros_like(value)
                value = given(value, code)
            out.append(value)
        return out

    def typed(self, names: list[str], code: int) -> ModelProto:
        """The model with the operands `names` of that type, and the types of results inferred."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.ir_version = max(model.ir_version, 13)
        for port in model.graph.input:
            if port.name in names:
                port.type.tensor_type.elem_type = code
        for port in model.graph.output:
            port.type.CopyFrom(TypeProto())
        if self.node.op_type == "DequantizeLinear" and code == TensorProto.FLOAT8E8M0:
            model.graph.node[0].attribute.append(helper.make_attribute("output_dtype", TensorProto.FLOAT))
        model = shape_inference.infer_shapes(model, check_type=False, strict_mode=True)
        onnx.checker.check_model(model)
        if not all(p.type.HasField("tensor_type") for p in model.graph.output):
            raise ValueError("results that are no tensors")
        if self.node.op_type == "RMSNormalization" and len({v.type.tensor_type.elem_type for v in model.graph.input}) > 1:
            raise ValueError("inference gives the result the type of X, the signature that of scale")
        return model

    def expected(self, model: ModelProto, names: list[str], code: int, values: list[np.ndarray]) -> list[np.ndarray]:
        """What the reference gives, in the types that the model states."""
        if code in HALVES:
            wide = self.typed(names, TensorProto.FLOAT)
            values = [v.astype(np.float32) if p.name in names else v for p, v in zip(model.graph.input, values)]
        else:
            wide = model
        found = ReferenceEvaluator(wide).run(None, {p.name: v for p, v in zip(wide.graph.input, values)})
        out = []
        for value, port in zip(found, model.graph.output, strict=True):
            want = port.type.tensor_type.elem_type
            value = np.asarray(value)
            out.append(value.astype(object) if want == TensorProto.STRING else value.astype(helper.tensor_dtype_to_np_dtype(want)))
        return out


def write_case(folder: pathlib.Path, case: Case, names: list[str], code: int) -> None:
    """One case; raises where the operator, or the reference, does not take the type."""
    values = case.operands(names, code)
    model = case.typed(names, code)
    results = case.expected(model, names, code, values)
    data = folder / "test_data_set_0"
    messages = {
        f"{side}_{k}.pb": numpy_helper.from_array(np.asarray(value), port.name).SerializeToString(deterministic=True)
        for side, ports, all_of in [("input", model.graph.input, values), ("output", model.graph.output, results)]
        for k, (port, value) in enumerate(zip(ports, all_of))
    }
    data.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for name, message in messages.items():
        (data / name).write_bytes(message)
    rtol = max(case.tolerance["rtol"], HALVES.get(code, 0))
    (folder / "tolerance.json").write_text(json.dumps({"rtol": rtol, "atol": max(case.tolerance["atol"], HALVES.get(code, 0) / 10)}) + "\n")


def write_types(out: pathlib.Path, node: pathlib.Path) -> None:
    """All cases, into `out`, from those of `node`."""
    done = set()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for source in sorted(f for f in node.iterdir() if Case.fits(f)):
            case = Case(source)
            types = {port.name: port.type.tensor_type.elem_type for port in case.model.graph.input}
            for parameter, names in case.parameters().items():
                allowed = next((c.allowed_type_strs for c in case.schema.type_constraints if c.type_param_str == parameter), [])
                for code in filter(None, map(code_of, allowed)):
                    key = (case.node.domain, case.node.op_type, parameter, code)
                    if key in done or code == types[names[0]] or not case.suits(code):
                        continue
                    name = f"{case.node.op_type}_{parameter}_{TensorProto.DataType.Name(code).lower()}"
                    try:
                        write_case(out / name, case, names, code)
                    except Exception:  # noqa: BLE001 - whatever the reference raises, the next case may do
                        continue
                    done.add(key)
