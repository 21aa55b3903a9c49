"""Writes contrib.jsonl and opsets.jsonl: operators with operands, attributes and results, a line each.

    VENV/bin/pip install onnx==1.23.2 onnxruntime==1.31.1 numpy
    VENV/bin/python tests/recorded/record.py

Results of `com.microsoft` are those of ONNX Runtime, but for operators that it has no CPU kernel of; those, and old versions of the
standard's, are computed here, by the words of their definitions.
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper as oh
from onnx import numpy_helper as nh

HERE = pathlib.Path(__file__).parent
KINDS = {"float32": "f32", "int32": "i32", "int64": "i64", "uint8": "u8", "int8": "i8", "bool": "bool"}
rng = np.random.RandomState(1)


def noise(*dims):
    """Numbers of few digits."""
    return np.round(rng.randn(*dims), 2).astype(np.float32)


def value(x, constant=False):
    x = np.asarray(x)
    data = x.ravel().tolist()
    if x.dtype == np.float32:
        data = [float(f"{v:.6g}") for v in data]
    out = {"type": KINDS[str(x.dtype)], "dims": list(x.shape), "data": data}
    return {**out, "constant": True} if constant else out


def attribute(v):
    if isinstance(v, str):
        return {"s": v}
    if isinstance(v, list):
        return {"is": v} if all(isinstance(x, int) for x in v) else {"fs": v}
    return {"i": v} if isinstance(v, int) else {"f": v}


class Lines:
    def __init__(self, name):
        self.file, self.lines = HERE / name, []

    def add(self, name, op, domain, opset, inputs, constants, attrs, outputs, tolerance):
        self.lines.append(json.dumps({
            "name": name, "op": op, "domain": domain, "opset": opset,
            "inputs": [None if v is None else value(v, k in constants) for k, v in inputs.items()],
            "attributes": {k: attribute(v) for k, v in attrs.items()},
            "outputs": [None if v is None else value(v) for v in outputs], "tolerance": tolerance}, separators=(",", ":")))

    def write(self):
        self.file.write_text("\n".join(self.lines) + "\n")
        print(self.file.name, len(self.lines), "cases,", self.file.stat().st_size, "bytes")


contrib = Lines("contrib.jsonl")


def run(name, op, inputs, outs=1, constants=(), tolerance=1e-4, domain="com.microsoft", opset=18, skip=(), **attrs):
    """A case of one node by ONNX Runtime; results in `skip` are not asked for."""
    given = {k: np.asarray(v) for k, v in inputs.items() if v is not None}
    names = ["" if i in skip else f"y{i}" for i in range(outs)]
    node = oh.make_node(op, [k if inputs[k] is not None else "" for k in inputs], names, domain=domain, **attrs)
    ports = [oh.make_tensor_value_info(k, oh.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in given.items() if k not in constants]
    graph = oh.make_graph([node], "g", ports, [oh.make_empty_tensor_value_info(n) for n in names if n],
                          [nh.from_array(given[k], k) for k in constants])
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", opset), oh.make_opsetid("com.microsoft", 1)])
    model.ir_version = 9
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = iter(session.run(None, {k: v for k, v in given.items() if k not in constants}))
    contrib.add(name, op, domain, opset, inputs, constants, attrs, [next(found) if n else None for n in names], tolerance)


x, line = noise(2, 3, 4), noise(4)
run("gelu", "Gelu", {"x": x})
run("fast gelu", "FastGelu", {"x": x, "bias": line})
run("bias gelu", "BiasGelu", {"x": x, "bias": line})
run("quick gelu", "QuickGelu", {"x": x}, alpha=1.3)
run("skip", "SkipLayerNormalization", {"x": x, "skip": noise(3, 4), "gamma": line, "beta": noise(4), "bias": noise(4)}, 4, skip=(1, 2))
run("skip, no beta", "SkipLayerNormalization", {"x": x, "skip": noise(2, 3, 4), "gamma": line}, epsilon=1e-3)
run("skip rms", "SkipSimplifiedLayerNormalization", {"x": x, "skip": noise(2, 3, 4), "gamma": line, "bias": noise(4)}, 4, skip=(1, 2))
run("rms", "SimplifiedLayerNormalization", {"x": x, "gamma": line}, 2, domain="", epsilon=1e-4)
run("layer norm before its opset", "LayerNormalization", {"x": x, "gamma": line, "beta": noise(4)}, domain="", opset=11)
ids = np.array([[0, 3, 1], [4, 4, 2]], np.int32)
tables = {"ids": ids, "segments": np.array([[0, 1, 1], [0, 0, 1]], np.int32), "words": noise(5, 4), "places": noise(6, 4),
          "kinds": noise(2, 4), "gamma": line, "beta": noise(4)}
run("embed", "EmbedLayerNormalization", {**tables, "mask": np.array([[1, 1, 0], [1, 1, 1]], np.int32)}, 2)
run("embed at places", "EmbedLayerNormalization", {**tables, "segments": None, "kinds": None, "mask": None,
                                                   "at": np.array([[2, 1, 0], [3, 4, 5]], np.int32)}, 3)
image = {"x": noise(1, 2, 4, 4), "w": noise(3, 2, 3, 3), "b": noise(3)}
for activation, parameters in [("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.7]), ("HardSigmoid", [0.3, 0.4])]:
    run(f"conv {activation}", "FusedConv", image, activation=activation, pads=[1, 0, 1, 0], **({"activation_params": parameters} if parameters else {}))
run("conv sum", "FusedConv", {**image, "z": noise(1, 3, 2, 2)}, activation="Relu")
for a in (0, 1):
    for b in (0, 1):
        run(f"product {a}{b}", "FusedMatMul", {"a": noise(2, 3, 3), "b": noise(2, 3, 3)}, transA=a, transB=b, alpha=0.5)
        run(f"batch product {a}{b}", "FusedMatMul", {"a": noise(3, 2, 3), "b": noise(3, 2, 3)}, transA=a, transB=b, transBatchA=1, transBatchB=1)
run("transposed product", "TransposeMatMul", {"a": noise(4, 3), "b": noise(4, 2)}, transA=1)
run("gemm", "FusedGemm", {"a": noise(3, 4), "b": noise(4, 2), "c": noise(2)}, activation="LeakyRelu", activation_alpha=0.3, alpha=0.5, beta=2.0)
run("trilu", "Trilu", {"x": noise(3, 3)}, upper=0)
run("unique", "Unique", {"x": np.array([3, 1, 3, 2, 1, 7], np.float32)}, 3)
run("gather nd", "GatherND", {"x": noise(3, 4), "i": np.array([[0, 1], [2, 3]], np.int64)})
run("expand dims", "ExpandDims", {"x": noise(3, 2), "axis": np.array(-1, np.int32)}, constants=["axis"])
run("inverse", "Inverse", {"x": noise(2, 3, 3) + 2 * np.eye(3, dtype=np.float32)}, tolerance=1e-3)
run("grid", "GridSample", {"x": noise(1, 1, 3, 3), "grid": noise(1, 2, 2, 2)}, mode="bilinear")
run("pads", "ConvTransposeWithDynamicPads", {"x": noise(1, 2, 3, 3), "w": noise(2, 1, 3, 3), "pads": np.array([1, 0, 1, 0], np.int64)},
    constants=["pads"], strides=[2, 2], output_padding=[1, 1])
angle = np.arange(8)[:, None] * np.arange(1, 3) / 3
cos, sin = np.round(np.cos(angle), 3).astype(np.float32), np.round(np.sin(angle), 3).astype(np.float32)
places = np.array([[5, 6, 1], [0, 2, 3]], np.int64)
for pairs in (0, 1):
    run(f"rotary {pairs}", "RotaryEmbedding", {"x": noise(2, 3, 4), "at": places, "cos": cos, "sin": sin}, interleaved=pairs)
    run(f"rotary from {pairs}", "RotaryEmbedding", {"x": noise(2, 1, 3, 4), "at": np.array([2], np.int64), "cos": cos, "sin": sin}, interleaved=pairs)
run("rotary in part", "RotaryEmbedding", {"x": noise(2, 3, 16), "at": places, "cos": cos, "sin": sin}, num_heads=2, rotary_embedding_dim=4)

base = {"x": noise(2, 3, 4), "w": noise(4, 12), "b": noise(12)}
run("attention", "Attention", base, num_heads=2)
run("attention causal", "Attention", base, num_heads=2, unidirectional=1)
run("attention mask", "Attention", {**base, "m": np.array([[1, 1, 0], [0, 1, 1]], np.int32)}, num_heads=2)
run("attention lengths", "Attention", {**base, "m": np.array([2, 3], np.int32)}, num_heads=2)
run("attention ends and starts", "Attention", {**base, "m": np.array([2, 3, 1, 0], np.int32)}, num_heads=2)
run("attention square mask", "Attention", {**base, "m": rng.randint(0, 2, (2, 3, 3)).astype(np.int32)}, num_heads=2)
run("attention past", "Attention", {**base, "m": np.array([[1] * 4 + [0], [0] + [1] * 4], np.int32), "past": noise(2, 2, 2, 2, 2)}, 2, num_heads=2, unidirectional=1)
run("attention added", "Attention", {**base, "m": None, "past": None, "more": noise(2, 2, 3, 3)}, num_heads=2, scale=0.3)
run("attention sizes", "Attention", {"x": noise(2, 3, 4), "w": noise(4, 16), "b": noise(16)}, num_heads=2, qkv_hidden_sizes=[4, 4, 8])
q, k, v = noise(2, 3, 4), noise(2, 4, 4), noise(2, 4, 6)
run("heads", "MultiHeadAttention", {"q": q, "k": k, "v": v, "b": noise(14)}, num_heads=2)
run("heads mask", "MultiHeadAttention", {"q": q, "k": k, "v": v, "b": None, "m": np.array([[1, 1, 1, 0], [1, 1, 1, 1]], np.int32)}, num_heads=2)
run("heads added", "MultiHeadAttention", {"q": q, "k": k, "v": v, "b": None, "m": None, "more": noise(1, 2, 3, 4)}, num_heads=2)
run("heads past", "MultiHeadAttention", {"q": q, "k": noise(2, 3, 4), "v": noise(2, 3, 4), "b": None, "m": None, "more": None,
                                         "pk": noise(2, 2, 2, 2), "pv": noise(2, 2, 2, 2)}, 3, num_heads=2)
run("heads causal", "MultiHeadAttention", {"q": q, "k": noise(2, 3, 4), "v": noise(2, 3, 4)}, num_heads=2, unidirectional=1)
run("heads across", "MultiHeadAttention", {"q": q, "k": noise(2, 2, 4, 2), "v": noise(2, 2, 4, 2)}, num_heads=2)


def grouped(name, batch, new, past, lengths, total, size=8, outs=3, packed=False, rotate=False, more=(), **attrs):
    n, shared = 2, 1
    d = {"q": noise(batch, new, (n + 2 * shared) * size if packed else n * size), "k": None if packed else noise(batch, new, shared * size),
         "v": None if packed else noise(batch, new, shared * size), "pk": None if past is None else noise(batch, shared, past, size),
         "pv": None if past is None else noise(batch, shared, past, size), "lengths": np.array(lengths, np.int32), "total": np.array(total, np.int32)}
    if rotate:
        a = np.arange(16)[:, None] * np.arange(1, size // 2 + 1) / 5
        d |= {"cos": np.round(np.cos(a), 3).astype(np.float32), "sin": np.round(np.sin(a), 3).astype(np.float32)}
    d |= dict(more)
    run(name, "GroupQueryAttention", d, outs, constants=["total"], num_heads=n, kv_num_heads=shared, do_rotary=int(rotate), **attrs)


grouped("group prompt", 2, 3, None, [2, 2], 3)
grouped("group prompt rotary", 1, 3, None, [2], 3, size=16, rotate=True, rotary_interleaved=1)
grouped("group empty past", 1, 2, 0, [1], 2)
grouped("group step", 1, 1, 3, [3], 4, size=16, rotate=True)
grouped("group steps", 2, 1, 3, [3, 3], 4)
grouped("group packed", 1, 1, 3, [3], 4, packed=True)
grouped("group chunk", 1, 2, 3, [4], 5)
grouped("group window", 1, 4, None, [3], 4, local_window_size=2)
grouped("group softcap", 1, 3, None, [2], 3, softcap=0.5, scale=0.4)
grouped("group smooth", 1, 3, None, [2], 3, smooth_softmax=1)
grouped("group sink", 1, 3, None, [2], 3, more=[("cos", None), ("sin", None), ("at", None), ("added", None), ("sink", noise(2))])
grouped("group added", 1, 3, None, [2], 3, more=[("cos", None), ("sin", None), ("at", None), ("added", noise(1, 2, 3, 3))])
scales = {"xs": np.float32(0.02), "ws": np.float32(0.01)}
quantized = {"x": rng.randint(0, 255, (2, 3, 4)).astype(np.uint8), "w": rng.randint(-127, 127, (4, 12)).astype(np.int8), "b": noise(12), **scales,
             "m": np.array([[1, 1, 0], [1, 1, 1]], np.int32), "xz": np.uint8(120), "wz": np.int8(0)}
run("attention of bytes", "QAttention", quantized, constants=["w", "xs", "ws", "xz", "wz"], tolerance=1e-3, num_heads=2)
code = {"a": noise(2, 32), "b": rng.randint(0, 256, 3 * 16).astype(np.uint8), "s": np.abs(noise(6)) + np.float32(0.5)}
for kind in (0, 1):
    run(f"codes {kind}", "MatMulBnb4", code, constants=["b", "s"], tolerance=1e-3, K=32, N=3, block_size=16, quant_type=kind)
lstm = {"x": noise(3, 1, 2), "w": rng.randint(-100, 100, (2, 2, 8)).astype(np.int8), "r": rng.randint(-100, 100, (2, 2, 8)).astype(np.int8), "b": noise(2, 16),
        "l": None, "h": None, "c": None, "p": None, "ws": np.full(2, 0.005, np.float32), "wz": np.zeros(2, np.int8),
        "rs": np.full(2, 0.004, np.float32), "rz": np.zeros(2, np.int8)}
run("lstm of bytes", "DynamicQuantizeLSTM", lstm, 3, constants=["w", "r", "ws", "wz", "rs", "rz"], tolerance=2e-2, hidden_size=2, direction="bidirectional")

opsets = Lines("opsets.jsonl")


def old(name, op, opset, inputs, outputs, constants=(), **attrs):
    """A case of an old version; results written as lists are f32."""
    floats = [np.float32(o) if isinstance(o, list) or o.dtype == np.float64 else o for o in outputs]
    opsets.add(name, op, "", opset, inputs, constants, attrs, floats, 1e-4)


x = noise(2, 3, 4, 2)
old("cast by word", "Cast", 1, {"x": x}, [x.astype(np.int32)], to="INT32")
for op, f in [("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide)]:
    b = noise(3, 4) + np.float32(5)
    old(f"{op} at an axis", op, 6, {"a": x, "b": b}, [f(x, b[:, :, None])], broadcast=1, axis=1)
    old(f"{op} at the end", op, 1, {"a": x, "b": b[0, :2]}, [f(x, b[0, :2])], broadcast=1)
bits = x > 0
old("And at an axis", "And", 1, {"a": bits, "b": bits[0, :, 0, 0]}, [bits & bits[0, :, 0, 0][:, None, None]], broadcast=1, axis=1)
old("Greater at an axis", "Greater", 1, {"a": x, "b": x[0, :, 0, 0]}, [x > x[0, :, 0, 0][:, None, None]], broadcast=1, axis=1)
old("Pow at an axis", "Pow", 1, {"a": np.abs(x), "b": np.float32([1, 2, 3])}, [np.abs(x) ** np.float32([1, 2, 3])[:, None, None]], broadcast=1, axis=1)
slope = noise(3)
old("PRelu by channel", "PRelu", 6, {"x": x, "s": slope}, [np.where(x > 0, x, x * slope[:, None, None])])
y = noise(2, 3, 3)
old("PRelu broadcast", "PRelu", 7, {"x": y, "s": slope}, [np.where(y > 0, y, y * slope)])
old("Split by operand", "Split", 1, {"x": y, "s": np.float32([1, 2])}, [y[:, :1], y[:, 1:]], constants=["s"], axis=1)
old("Split by attribute", "Split", 2, {"x": y}, [y[:, :2], y[:, 2:]], axis=1, split=[2, 1])
old("Split evenly", "Split", 2, {"x": y}, [y[:1], y[1:]])
old("Upsample nearest", "Upsample", 1, {"x": x}, [x.repeat(2, 2).repeat(3, 3)], height_scale=2.0, width_scale=3.0)
row = np.float32([[[[1, 3]]]])
old("Upsample bilinear", "Upsample", 1, {"x": row}, [[[[[1, 2, 3, 3]]]]], height_scale=1.0, width_scale=2.0, mode="bilinear")
old("Upsample by attribute", "Upsample", 7, {"x": x}, [x.repeat(2, 3)], scales=[1.0, 1.0, 1.0, 2.0])
channel = [noise(3), noise(3), noise(3), np.abs(noise(3)) + np.float32(0.5)]
names = ["x", "scale", "bias", "mean", "var"]


def normal(x, s, b, m, v):
    return (x - m) / np.sqrt(v + np.float32(1e-5)) * s + b


def spread(v):
    return v[:, None, None]


old("BatchNormalization tested", "BatchNormalization", 6, dict(zip(names, [x, *channel])), [normal(x, *map(spread, channel))], is_test=1)
feature = [noise(3, 4, 2), noise(3, 4, 2), noise(3, 4, 2), np.abs(noise(3, 4, 2)) + np.float32(0.5)]
old("BatchNormalization by feature", "BatchNormalization", 7, dict(zip(names, [x, *feature])), [normal(x, *feature)], spatial=0)
mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
old("BatchNormalization trained", "BatchNormalization", 9, dict(zip(names, [x, *channel])),
    [normal(x, *map(spread, channel[:2]), spread(mean), spread(var)), channel[2] * 0.9 + mean * 0.1, channel[3] * 0.9 + var * 0.1, mean, var])
old("Dropout tested", "Dropout", 6, {"x": y}, [y], is_test=1)
old("Dropout since 7", "Dropout", 7, {"x": y}, [y])
for p in (3.0, 2.5):
    sums = np.stack([np.abs(x[:, :, i:i + 3, j:j + 1]) ** p for i in (0, 1) for j in (0, 1)]).sum(0)
    old(f"LpPool of {p}", "LpPool", 1, {"x": x}, [sums ** (1 / p)], kernel_shape=[2, 2], p=p)
old("GlobalLpPool of 3", "GlobalLpPool", 2, {"x": x}, [(np.abs(x) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)], p=3)
index = np.array([0, -1, 2], np.int64)
hot = {"i": index, "depth": np.int64(3), "values": np.float32([2, 5])}
old("OneHot before 11", "OneHot", 9, hot, [[[5, 2, 2], [2, 2, 2], [2, 2, 5]]], constants=["depth"])
old("OneHot from 11", "OneHot", 11, hot, [[[5, 2, 2], [2, 2, 5], [2, 2, 5]]], constants=["depth"])
plane = np.arange(36, dtype=np.float32).reshape(1, 1, 6, 6)
old("MaxRoiPool", "MaxRoiPool", 1, {"x": plane, "rois": np.float32([[0, 0, 0, 3, 3], [0, 2, 2, 20, 4]])},
    [[[[[7, 9], [19, 21]]], [[[23, 0], [29, 0]]]]], pooled_shape=[2, 2])
e = np.exp(y - y.max((1, 2), keepdims=True))
old("Softmax of rows", "Softmax", 11, {"x": y}, [e / e.sum((1, 2), keepdims=True)])
old("LogSoftmax of rows", "LogSoftmax", 1, {"x": y}, [np.log(e / e.sum((1, 2), keepdims=True))])
h = np.zeros((2, 9), np.float32)
h[range(2), y.reshape(2, 9).argmax(1)] = 1
old("Hardmax of rows", "Hardmax", 11, {"x": y}, [h.reshape(2, 3, 3)])
old("Pad by paddings", "Pad", 1, {"x": y[0]}, [np.pad(y[0], ((1, 0), (0, 2)), constant_values=1.5)], paddings=[1, 0, 0, 2], value=1.5)
old("Pad by pads", "Pad", 2, {"x": y[0]}, [np.pad(y[0], ((1, 0), (0, 2)), mode="edge")], pads=[1, 0, 0, 2], mode="edge")
old("Slice by attributes", "Slice", 1, {"x": y}, [y[:, 1:3, -2:]], starts=[1, -2], ends=[3, 1000], axes=[1, 2])
top = np.float32([[3, 1, 2], [9, 8, 7]])
old("TopK by attribute", "TopK", 1, {"x": top}, [[[3, 2], [9, 8]], np.array([[0, 2], [0, 1]], np.int64)], k=2)
old("Clip by attributes", "Clip", 6, {"x": y}, [np.clip(y, -0.5, 0.25)], min=-0.5, max=0.25)
old("Squeeze by attribute", "Squeeze", 1, {"x": y[:, None]}, [y], axes=[1])
old("Unsqueeze by attribute", "Unsqueeze", 1, {"x": y}, [y[:, None, :, :, None]], axes=[1, 4])
old("ReduceSum by attribute", "ReduceSum", 1, {"x": y}, [y.sum((0, 2))], axes=[0, 2], keepdims=0)
old("ReduceMax by attribute", "ReduceMax", 11, {"x": y}, [y.max(-1, keepdims=True)], axes=[-1])
old("Reshape by attribute", "Reshape", 1, {"x": y}, [y.reshape(2, 9)], shape=[0, -1])
old("Concat along 1", "Concat", 1, {"a": y, "b": y}, [np.concatenate([y, y], 1)])
old("Tile of an axis", "Tile", 1, {"x": y, "n": np.float32(2), "axis": np.float32(1)}, [np.tile(y, (1, 2, 1))], constants=["n", "axis"])
old("Gemm with broadcast", "Gemm", 6, {"a": y[0], "b": y[1], "c": slope}, [y[0] @ y[1].T * 0.5 + slope], broadcast=1, transB=1, alpha=0.5)
old("Selu of 1", "Selu", 1, {"x": np.float32([-1, 2])}, [[1.0507 * 1.6732 * (np.exp(-1) - 1), 2.1014]])
old("Resize by scales", "Resize", 10, {"x": row, "s": np.float32([1, 1, 1, 2])}, [[[[[1, 1, 3, 3]]]]], constants=["s"])
g = noise(1, 4, 2, 2)
flat = g.reshape(1, 2, 8)
flat = (flat - flat.mean(2, keepdims=True)) / np.sqrt(flat.var(2, keepdims=True) + np.float32(1e-5))
two = [noise(2), noise(2)]
old("GroupNormalization by group", "GroupNormalization", 18, {"x": g, "s": two[0], "b": two[1]},
    [(flat * two[0][:, None] + two[1][:, None]).reshape(g.shape)], num_groups=2)
four = [noise(4), noise(4)]
old("GroupNormalization by channel", "GroupNormalization", 21, {"x": g, "s": four[0], "b": four[1]},
    [flat.reshape(g.shape) * spread(four[0]) + spread(four[1])], num_groups=2)
opsets.write()


def plain(name, op, inputs, outputs, constants=(), **attrs):
    """A case of `com.microsoft` whose results are computed here."""
    outputs = [o.astype(np.float32) if o.dtype == np.float64 else o for o in outputs]
    contrib.add(name, op, "com.microsoft", 18, inputs, constants, attrs, outputs, 1e-4)


def tanh_gelu(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


x, line, skip = noise(2, 3, 4), noise(4), noise(2, 3, 4)
plain("bias add", "BiasAdd", {"x": x, "b": line, "s": skip}, [x + line + skip])
plain("bias split gelu", "BiasSplitGelu", {"x": x, "b": line}, [(x + line)[..., :2] * gelu((x + line)[..., 2:])])
plain("bias dropout", "BiasDropout", {"x": x, "b": line, "r": skip}, [x + line + skip])
plain("product gelu", "GemmFastGelu", {"x": x, "w": (w := noise(4, 3)), "b": (b := noise(3))}, [tanh_gelu(x @ w + b)])
plain("product gelu, no bias", "GemmFastGelu", {"x": x, "w": w}, [tanh_gelu(x @ w)])
scores = noise(2, 2, 3, 4)
plain("bias softmax, inner", "BiasSoftmax", {"x": scores, "b": (b := noise(2, 1, 1, 4))}, [softmax(scores + b)], axis=3, is_inner_broadcast=0)
plain("bias softmax, outer", "BiasSoftmax", {"x": scores, "b": (b := noise(1, 1, 3, 4))}, [softmax(scores + b)], axis=3, is_inner_broadcast=1)
plain("bias softmax of two axes", "BiasSoftmax", {"x": scores, "b": (b := noise(1, 1, 3, 4))},
      [softmax((scores + b).reshape(4, 12)).reshape(scores.shape)], axis=2, is_inner_broadcast=1)


def grouped_norm(x, gamma, beta, groups, swish, epsilon=1e-5):
    """Of images [N, H, W, C]."""
    n, h, w, c = x.shape
    y = x.astype(np.float64).reshape(n, h * w, groups, c // groups)
    y = (y - y.mean((1, 3), keepdims=True)) / np.sqrt(y.var((1, 3), keepdims=True) + epsilon)
    y = y.reshape(x.shape) * gamma + beta
    return y / (1 + np.exp(-y)) if swish else y


image, gamma, beta = noise(2, 3, 2, 4), noise(4), noise(4)
for swish in (0, 1):
    plain(f"group norm {swish}", "GroupNorm", {"x": image, "g": gamma, "b": beta}, [grouped_norm(image, gamma, beta, 2, swish)], groups=2, activation=swish)
first = image.transpose(0, 3, 1, 2)
plain("group norm, channels first", "GroupNorm", {"x": first, "g": gamma, "b": beta},
      [grouped_norm(image, gamma, beta, 4, 1, 1e-3).transpose(0, 3, 1, 2)], groups=4, activation=1, channels_last=0, epsilon=1e-3)
for name, skip in [("", noise(2, 3, 2, 4)), (" of channels", noise(2, 4)), (" of one pixel", noise(2, 1, 1, 4))]:
    sum = image + (skip[:, None, None] if skip.ndim == 2 else skip) + line
    plain(f"skip group norm{name}", "SkipGroupNorm", {"x": image, "g": gamma, "b": beta, "s": skip, "bias": line},
          [grouped_norm(sum, gamma, beta, 2, 1), sum], groups=2, activation=1)


def convolved(x, w, b):
    """Of images [N, H, W, C] by weights [M, C, 2, 3], with pads 1, 0, 0, 1 and a step of 2 down."""
    x = np.pad(x, ((0, 0), (1, 0), (0, 1), (0, 0)))
    rows, columns = range(0, x.shape[1] - 1, 2), range(x.shape[2] - 2)
    return np.stack([np.stack([np.einsum("nhwc,mchw->nm", x[:, i:i + 2, j:j + 3], w) + b for j in columns], 1) for i in rows], 1)


image, w, b = noise(2, 4, 4, 3), noise(5, 3, 2, 3), noise(5)
how = dict(kernel_shape=[2, 3], pads=[1, 0, 0, 1], strides=[2, 1])
plain("conv, channels last", "NhwcConv", {"x": image, "w": w.transpose(0, 2, 3, 1), "b": b}, [convolved(image, w, b)], **how)
y = np.maximum(convolved(image, w, b) + (z := noise(2, 2, 3, 5)), 0)
plain("fused conv, channels last", "NhwcFusedConv", {"x": image, "w": w, "b": b, "z": z}, [y], **how, activation="Relu")


def heads(q, k, v, lengths=None):
    """Attention of [B, S, N, D], joined."""
    q, k, v = (t.astype(np.float64).transpose(0, 2, 1, 3) for t in (q, k, v))
    s = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1])
    if lengths is not None:
        s = np.where(np.arange(s.shape[-1]) < np.array(lengths)[:, None, None, None], s, -np.inf)
    y = (softmax(s) @ v).transpose(0, 2, 1, 3)
    return y.reshape(*y.shape[:2], -1)


one, two, query = noise(2, 3, 2, 3, 4), noise(2, 5, 2, 2, 4), noise(2, 3, 8)
plain("heads of one", "MultiHeadAttention", {"q": one}, [heads(*np.moveaxis(one, 3, 0))], num_heads=2)
plain("heads of two", "MultiHeadAttention", {"q": query, "k": two}, [heads(query.reshape(2, 3, 2, 4), *np.moveaxis(two, 3, 0))], num_heads=2)

# Two sequences of three steps, of which the first has two tokens.
lengths, padded = [2, 3], noise(2, 3, 4)
kept = np.array([0, 1, 3, 4, 5])
offset, starts = np.array([[0, 1, 3], [4, 5, 2]], np.int32), np.array([0, 2, 5], np.int32)
tokens = padded.reshape(6, 4)[kept]
plain("padding removed", "RemovePadding", {"x": padded, "n": np.array(lengths, np.int32)}, [tokens, offset, starts, np.array([3], np.int32)])
restored = np.zeros((6, 4), np.float32)
restored[kept] = tokens
plain("padding restored", "RestorePadding", {"x": tokens, "o": offset}, [restored.reshape(2, 3, 4)])


def packed(q, k, v):
    """Attention of tokens [5, 2, D], each in its sequence."""
    ends = [(0, 2), (2, 5)]
    return np.concatenate([heads(*(t[None, i:j] for t in (q, k, v)))[0] for i, j in ends])


w, b = noise(4, 16), noise(16)
y = tokens @ w + b
parts = [y[:, :4].reshape(5, 2, 2), y[:, 4:8].reshape(5, 2, 2), y[:, 8:].reshape(5, 2, 4)]
plain("packed attention", "PackedAttention", {"x": tokens, "w": w, "b": b, "o": offset, "s": starts}, [packed(*parts)], num_heads=2, qkv_hidden_sizes=[4, 4, 8])
q, k, v, b = noise(5, 4), noise(5, 4), noise(5, 8), noise(16)
parts = [(q + b[:4]).reshape(5, 2, 2), (k + b[4:8]).reshape(5, 2, 2), (v + b[8:]).reshape(5, 2, 4)]
plain("packed heads", "PackedMultiHeadAttention", {"q": q, "k": k, "v": v, "b": b, "o": offset, "s": starts}, [packed(*parts)], num_heads=2)
one = noise(5, 2, 3, 4)
plain("packed heads of one", "PackedMultiHeadAttention", {"q": one, "k": None, "v": None, "b": None, "o": offset, "s": starts}, [packed(*np.moveaxis(one, 2, 0))], num_heads=2)
contrib.write()
