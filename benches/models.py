"""The models that the race is about: each is built from a seed of its own, so that PyTorch runs with the weights that were exported.

models.py DIR [NAME ...] exports them (needs torch, torchvision, transformers, ultralytics, onnx, onnxscript, onnxruntime, onnxslim).
"""
import os
import sys
import warnings
import zlib

# What tables call them, in the order of tables.
NAMES = {
    "resnet50": "ResNet-50",
    "bert_base_s128": "BERT-base, 128 tokens",
    "gpt2_s64": "GPT-2, 64 tokens",
    "gpt2_decode": "GPT-2, one token behind 48",
    "yolov5n": "YOLOv5n, 640×640",
    "mobilenet_v2": "MobileNetV2",
    "resnet50_int8_qdq": "ResNet-50, int8",
    "mobilenet_v2_int8_qdq": "MobileNetV2, int8",
}
# Extents of dimensions that the files leave open, by the name of the file.
DIMS = {"gpt2_decode": {"past": 48}}


def plausible(module):
    """Gives batch normalizations statistics as training leaves them: without, activations of deep networks vanish."""
    import torch

    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 1.5)
            m.weight.data.uniform_(0.5, 1.5)
            m.bias.data.normal_(0, 0.2)
    return module


def transformer(name):
    """BERT and GPT-2 with positional inputs and outputs."""
    import torch
    import transformers

    class Bert(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.BertModel(transformers.BertConfig(attn_implementation="eager"))

        def forward(self, ids, mask, types):
            found = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return found.last_hidden_state, found.pooler_output

    class Gpt2(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.GPT2LMHeadModel(transformers.GPT2Config(attn_implementation="eager"))

        def forward(self, ids, *past):
            if not past:
                return self.model(input_ids=ids, use_cache=False).logits
            cache = transformers.DynamicCache()
            for layer in range(len(past) // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            found = self.model(input_ids=ids, past_key_values=cache, use_cache=True)
            return (found.logits, *[t for layer in found.past_key_values.layers for t in (layer.keys, layer.values)])

    return Bert() if name.startswith("bert") else Gpt2()


def build(name):
    """The PyTorch module behind a file of that name, in evaluation mode; None where there is none, as for quantized files."""
    if name not in NAMES or name.endswith("_qdq"):
        return None
    os.environ.update(HF_HUB_OFFLINE="1", YOLO_OFFLINE="1")
    import torch

    # Both GPT-2 files hold the same network.
    torch.manual_seed(zlib.crc32(name.split("_")[0].encode()))
    if name in ("resnet50", "mobilenet_v2"):
        import torchvision

        module = plausible(getattr(torchvision.models, name)(weights=None))
    elif name == "yolov5n":
        import ultralytics

        module = plausible(ultralytics.YOLO("yolov5n.yaml").model)
    else:
        module = transformer(name)
    return module.eval()


def export(name, path):
    """Writes the file of that name as the exporters of its framework do."""
    import torch

    module = build(name)
    how = dict(dynamo=False, opset_version=17)
    if name in ("resnet50", "mobilenet_v2"):
        args, inputs, outputs = (torch.randn(1, 3, 224, 224),), ["input"], ["output"]
    elif name == "bert_base_s128":
        ids = torch.randint(0, 30000, (1, 128))
        mask = torch.ones_like(ids)
        args, outputs = (ids, mask, torch.zeros_like(ids)), ["last_hidden_state", "pooler_output"]
        inputs = ["input_ids", "attention_mask", "token_type_ids"]
    elif name == "gpt2_s64":
        args, inputs, outputs = (torch.randint(0, 50000, (1, 64)),), ["input_ids"], ["logits"]
        how = dict(dynamo=True, external_data=False, opset_version=18, verbose=False)
    elif name == "gpt2_decode":
        parts = [f"{i // 2}_{'kv'[i % 2]}" for i in range(24)]
        args = (torch.randint(0, 50000, (1, 1)), *[torch.randn(1, 12, 64, 64) for _ in parts])
        inputs, outputs = ["input_ids"] + [f"past_{p}" for p in parts], ["logits"] + [f"present_{p}" for p in parts]
        how["dynamic_axes"] = {f"past_{p}": {2: "past"} for p in parts} | {f"present_{p}": {2: "total"} for p in parts}
    else:
        import shutil

        import ultralytics

        yolo = ultralytics.YOLO("yolov5n.yaml")
        yolo.model = module
        shutil.move(yolo.export(format="onnx", imgsz=640, opset=17, simplify=False), path)
        return
    with torch.no_grad():
        torch.onnx.export(module, args, path, input_names=inputs, output_names=outputs, **how)


def quantize(source, path):
    """Writes the int8 version of a file: QuantizeLinear and DequantizeLinear around operators, weights by channel."""
    import numpy
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batches(CalibrationDataReader):
        def __init__(self):
            rng = numpy.random.default_rng(0)
            self.left = [{"input": rng.standard_normal((1, 3, 224, 224)).astype(numpy.float32)} for _ in range(4)]

        def get_next(self):
            return self.left.pop() if self.left else None

    prepared = path + ".prepared"
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    types = dict(weight_type=QuantType.QInt8, activation_type=QuantType.QUInt8)
    quantize_static(prepared, path, Batches(), quant_format=QuantFormat.QDQ, per_channel=True, **types)
    os.remove(prepared)


# Says in a file's metadata that build() makes the weights in it.
STAMP = ("weights", "benches/models.py")


def stamp(path):
    """Marks a file as exported from what build() makes."""
    import onnx

    model = onnx.load(path)
    entry = model.metadata_props.add()
    entry.key, entry.value = STAMP
    onnx.save(model, path)


def main():
    warnings.filterwarnings("ignore")
    folder, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:] or list(NAMES)
    os.makedirs(folder, exist_ok=True)
    for name in wanted:
        path = os.path.join(folder, name + ".onnx")
        if os.path.exists(path):
            continue
        if name.endswith("_int8_qdq"):
            source = os.path.join(folder, name.removesuffix("_int8_qdq") + ".onnx")
            if not os.path.exists(source):
                export(name.removesuffix("_int8_qdq"), source)
            quantize(source, path)
        else:
            export(name, path)
            stamp(path)
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
