"""Files as ONNX Runtime's tools leave them: its graph optimizer, its optimizer of transformers, its quantizer."""
import os


def graph_optimizer(source, path, case, feeds):
    """What a session writes when it is asked for its optimized model, without the layouts of one machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = path
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def transformers(gpu):
    """onnxruntime.transformers.optimizer, for processors, or with all that it has for GPUs."""

    def write(source, path, case, feeds):
        from onnxruntime.transformers.fusion_options import FusionOptions
        from onnxruntime.transformers.optimizer import optimize_model

        kind, heads, width = case.optimizer
        options = FusionOptions(kind)
        if gpu:
            options.use_multi_head_attention = kind != "gpt2"
            for name in ("nhwc_conv", "group_norm", "skip_group_norm", "bias_splitgelu", "packed_qkv", "packed_kv", "bias_add", "gelu_approximation", "gemm_fast_gelu",
                         "rotary_embeddings"):
                setattr(options, f"enable_{name}", True)
        found = optimize_model(source, model_type=kind, num_heads=heads, hidden_size=width, optimization_options=options, opt_level=0, use_gpu=gpu)
        found.save_model_to_file(path)

    return write


def packed(source, path, case, feeds):
    """Without padding: the optimizer's attention over rows of all sequences behind each other."""
    import onnx
    from onnxruntime.transformers.convert_to_packing_mode import PackingMode
    from onnxruntime.transformers.onnx_model import OnnxModel

    transformers(False)(source, path, case, feeds)
    model = OnnxModel(onnx.load(path))
    PackingMode(model).convert()
    model.save_model_to_file(path)


def quantized(static, operators=False):
    """onnxruntime.quantization: by calibration, as QuantizeLinear and DequantizeLinear or as operators of bytes; or at run time."""

    def write(source, path, case, feeds):
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Batches(CalibrationDataReader):
            def __init__(self):
                self.left = [feeds]

            def get_next(self):
                return self.left.pop() if self.left else None

        prepared = path + ".prepared"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        if static:
            form = QuantFormat.QOperator if operators else QuantFormat.QDQ
            quantize_static(prepared, path, Batches(), quant_format=form, per_channel=True, weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8)
        else:
            quantize_dynamic(prepared, path, weight_type=QuantType.QInt8)
        os.remove(prepared)

    return write


# How each form is made of an export, and whether its results are those of the export; those of a quantized file are its own.
FORMS = {
    "extended": (graph_optimizer, True),
    "optimizer": (transformers(False), True),
    "optimizer-gpu": (transformers(True), True),
    "packed": (packed, True),
    "qdq": (quantized(True), False),
    "qoperator": (quantized(True, True), False),
    "dynamic": (quantized(False), False),
}
