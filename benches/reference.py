"""What a model answers in double precision: its graph with every f32 made f64, run node by node by ONNX's reference implementation."""
import numpy
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def double(tensor):
    """A tensor of f32 as f64, any other as it is."""
    if tensor.data_type != FLOAT:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(numpy.float64), tensor.name)


def widen(graph):
    """Makes every f32 of a graph f64, in place."""
    for i, w in enumerate(graph.initializer):
        graph.initializer[i].CopyFrom(double(w))
    for port in [*graph.input, *graph.output]:
        if port.type.tensor_type.elem_type == FLOAT:
            port.type.tensor_type.elem_type = DOUBLE
    del graph.value_info[:]
    for node in graph.node:
        for a in node.attribute:
            if a.type == AttributeProto.TENSOR:
                a.t.CopyFrom(double(a.t))
            elif a.type == AttributeProto.GRAPH:
                widen(a.g)
            elif node.op_type == "Cast" and a.name == "to" and a.i == FLOAT:
                a.i = DOUBLE
            elif node.op_type == "Constant" and a.name in ("value_float", "value_floats"):
                values = numpy.array(a.f if a.name == "value_float" else list(a.floats), numpy.float64)
                a.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(values)))


class Conv(OpRun):
    """A convolution as a product for each tap of the window: the reference's own takes minutes for one image."""

    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, pads=None, strides=None):
        rank, groups = x.ndim - 2, group or 1
        if auto_pad not in (None, "NOTSET", "VALID"):
            raise NotImplementedError(f"Conv with auto_pad {auto_pad}")
        strides, dilations, pads = strides or [1] * rank, dilations or [1] * rank, pads or [0] * 2 * rank
        x = numpy.pad(x, [(0, 0), (0, 0)] + [(pads[i], pads[rank + i]) for i in range(rank)])
        taps = w.shape[2:]
        out = [(x.shape[2 + i] - dilations[i] * (taps[i] - 1) - 1) // strides[i] + 1 for i in range(rank)]
        n, c, k = x.shape[0], w.shape[1], w.shape[0]
        y = numpy.zeros((n, groups, k // groups, int(numpy.prod(out))), x.dtype)
        for tap in numpy.ndindex(*taps):
            at = tuple(slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in zip(tap, dilations, out, strides))
            part = x[(slice(None), slice(None), *at)].reshape(n, groups, c, -1)
            y += w[(slice(None), slice(None), *tap)].reshape(groups, k // groups, c) @ part
        y = y.reshape(n, k, *out)
        return (y if b is None else y + b.reshape(1, -1, *[1] * rank),)


class QuantizeLinear(OpRun):
    """Rounds to the nearest step, to even at ties, and saturates; the steps are taken as they are, in double precision."""

    op_domain = ""

    def _run(self, x, scale, zero=None, axis=None, **_):
        zero = numpy.zeros(scale.shape, numpy.uint8) if zero is None else zero
        shape = [-1 if i == (1 if axis is None else axis) % max(x.ndim, 1) else 1 for i in range(x.ndim)] if scale.ndim else []
        limits = numpy.iinfo(zero.dtype)
        steps = numpy.rint(x / scale.reshape(shape)) + zero.reshape(shape).astype(numpy.float64)
        return (numpy.clip(steps, limits.min, limits.max).astype(zero.dtype),)


class DequantizeLinear(OpRun):
    """Steps times their size."""

    op_domain = ""

    def _run(self, x, scale, zero=None, axis=None, **_):
        shape = [-1 if i == (1 if axis is None else axis) % max(x.ndim, 1) else 1 for i in range(x.ndim)] if scale.ndim else []
        zero = 0.0 if zero is None else zero.reshape(shape).astype(numpy.float64)
        return ((x.astype(numpy.float64) - zero) * scale.reshape(shape).astype(numpy.float64),)


def outputs(path, inputs):
    """The outputs of a model for a dictionary of inputs, those of f32 as f64."""
    model = onnx.load(path)
    widen(model.graph)
    for function in model.functions:
        for node in function.node:
            for a in node.attribute:
                if a.type == AttributeProto.TENSOR:
                    a.t.CopyFrom(double(a.t))
    run = ReferenceEvaluator(model, new_ops=[Conv, QuantizeLinear, DequantizeLinear])
    feeds = {k: v.astype(numpy.float64) if v.dtype == numpy.float32 else v for k, v in inputs.items()}
    return run.run(None, feeds)
