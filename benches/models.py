"""The models that the race is about: each is built from a seed of its own, so that PyTorch runs with the weights that were exported.

models.py DIR [NAME ...] exports them; without names, those of the README's table; `more` stands for the others, `all` for both.
Needs torch, torchvision, transformers, ultralytics, onnx, onnxscript, onnxruntime.
"""
import os
import shutil
import sys
import traceback
import typing
import warnings
import zlib


class Entry(typing.NamedTuple):
    """A model: what tables call it, how it is made, and how it is exported."""

    title: str
    # Makes the module, in PyTorch's default mode.
    make: typing.Callable
    # Makes the positional arguments it is exported with.
    args: typing.Callable = lambda torch: (torch.randn(1, 3, 224, 224),)
    inputs: typing.Sequence[str] = ("input",)
    outputs: typing.Sequence[str] = ("output",)
    # Further arguments of torch.onnx.export.
    how: dict = {}
    # Extents of dimensions that the file leaves open.
    dims: dict = {}


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


def vision(title, name, size=224, kind="", **how):
    """A model of torchvision for images of that size."""

    def make():
        import torchvision

        models = getattr(torchvision.models, kind) if kind else torchvision.models
        more = {"weights_backbone": None} if kind else {"init_weights": False, "transform_input": False} if "inception" in name else {}
        module = plausible(getattr(models, name)(weights=None, **more))
        return Pick(module, "out") if kind else module

    return Entry(title, make, lambda torch: (torch.randn(1, 3, size, size),), how=how)


def Pick(module, *keys):
    """A module that gives those values of a dictionary, or of a structure, that another one returns."""
    import torch

    class Picked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            found = self.module(*args, **kwargs)
            values = tuple(found[k] if isinstance(found, dict) else getattr(found, k) for k in keys)
            return values if len(values) > 1 else values[0]

    return Picked()


def hugging(title, model, config, args, inputs, keys=("last_hidden_state",), part=None, settings=None, **how):
    """A model of transformers, by the names of its classes; `part` picks a module within it."""

    def make():
        import transformers

        c = getattr(transformers, config)(**{"attn_implementation": "eager", **(settings or {})})
        found = getattr(transformers, model)(c)
        return Pick(getattr(found, part)() if part else found, *keys)

    return Entry(title, make, args, inputs, keys, how)


def yolo(title, config):
    """A detector of ultralytics at 640×640."""

    def make():
        import ultralytics

        return plausible(ultralytics.YOLO(config).model)

    return Entry(title, make, lambda torch: (torch.randn(1, 3, 640, 640),), ("images",))


def bert():
    import torch
    import transformers

    class Bert(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.BertModel(transformers.BertConfig(attn_implementation="eager"))

        def forward(self, ids, mask, types):
            found = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return found.last_hidden_state, found.pooler_output

    return Bert()


def gpt2():
    import torch
    import transformers

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

    return Gpt2()


def recurrent(cell):
    def make():
        import torch

        class Tagger(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = getattr(torch.nn, cell)(256, 512, 2, batch_first=True, bidirectional=True)
                self.head = torch.nn.Linear(1024, 64)

            def forward(self, x):
                return self.head(self.layers(x)[0])

        return Tagger()

    return make


def unet():
    import torch
    from torch import nn

    def block(i, o):
        conv = lambda i, o: [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()]
        return nn.Sequential(*conv(i, o), *conv(o, o))

    class Unet(nn.Module):
        def __init__(self, widths=(32, 64, 128, 256, 512)):
            super().__init__()
            pairs = list(zip(widths, widths[1:]))
            self.first = block(3, widths[0])
            self.down = nn.ModuleList(block(i, o) for i, o in pairs)
            self.up = nn.ModuleList(nn.ConvTranspose2d(o, i, 2, 2) for i, o in reversed(pairs))
            self.join = nn.ModuleList(block(2 * i, i) for i, _ in reversed(pairs))
            self.last = nn.Conv2d(widths[0], 2, 1)

        def forward(self, x):
            kept = [self.first(x)]
            for down in self.down:
                kept.append(down(nn.functional.max_pool2d(kept[-1], 2)))
            y = kept.pop()
            for up, join in zip(self.up, self.join):
                y = join(torch.cat([kept.pop(), up(y)], 1))
            return self.last(y)

    return plausible(Unet())


PARTS = [f"{i // 2}_{'kv'[i % 2]}" for i in range(24)]


def ids(n):
    return lambda torch: (torch.randint(0, 1000, (1, n)),)


# The README's table, in its order.
README = {
    "resnet50": vision("ResNet-50", "resnet50"),
    "bert_base_s128": Entry(
        "BERT-base, 128 tokens", bert,
        lambda torch: (torch.randint(0, 30000, (1, 128)), torch.ones(1, 128, dtype=torch.int64), torch.zeros(1, 128, dtype=torch.int64)),
        ("input_ids", "attention_mask", "token_type_ids"), ("last_hidden_state", "pooler_output")),
    "gpt2_s64": Entry("GPT-2, 64 tokens", gpt2, ids(64), ("input_ids",), ("logits",), {"dynamo": True}),
    "gpt2_decode": Entry(
        "GPT-2, one token behind 48", gpt2,
        lambda torch: (torch.randint(0, 50000, (1, 1)), *[torch.randn(1, 12, 64, 64) for _ in PARTS]),
        ["input_ids"] + [f"past_{p}" for p in PARTS], ["logits"] + [f"present_{p}" for p in PARTS],
        {"dynamic_axes": {f"past_{p}": {2: "past"} for p in PARTS} | {f"present_{p}": {2: "total"} for p in PARTS}}, {"past": 48}),
    "yolov5n": yolo("YOLOv5n, 640×640", "yolov5n.yaml"),
    "mobilenet_v2": vision("MobileNetV2", "mobilenet_v2"),
    "resnet50_int8_qdq": Entry("ResNet-50, int8", None),
    "mobilenet_v2_int8_qdq": Entry("MobileNetV2, int8", None),
}

# Models beyond it, to see that what the compiler knows is not about those alone.
MORE = {
    "efficientnet_b0": vision("EfficientNet-B0", "efficientnet_b0"),
    "mobilenet_v3_large": vision("MobileNetV3-Large", "mobilenet_v3_large"),
    "densenet121": vision("DenseNet-121", "densenet121"),
    "squeezenet1_1": vision("SqueezeNet 1.1", "squeezenet1_1"),
    "shufflenet_v2": vision("ShuffleNetV2", "shufflenet_v2_x1_0"),
    "regnet_y_400mf": vision("RegNetY-400MF", "regnet_y_400mf"),
    "resnext50": vision("ResNeXt-50", "resnext50_32x4d"),
    "inception_v3": vision("Inception v3", "inception_v3", 299),
    "vgg11": vision("VGG-11", "vgg11"),
    "convnext_tiny": vision("ConvNeXt-Tiny", "convnext_tiny"),
    "vit_b_16": vision("ViT-B/16", "vit_b_16", dynamo=True),
    "swin_t": vision("Swin-T", "swin_t"),
    "deeplabv3": vision("DeepLabV3, MobileNetV3", "deeplabv3_mobilenet_v3_large", 256, "segmentation"),
    "unet": Entry("U-Net, 256×256", unet, lambda torch: (torch.randn(1, 3, 256, 256),)),
    "yolov8n": yolo("YOLOv8n, 640×640", "yolov8n.yaml"),
    "yolo11n": yolo("YOLO11n, 640×640", "yolo11n.yaml"),
    "whisper_tiny": hugging(
        "Whisper-tiny, encoder", "WhisperModel", "WhisperConfig", lambda torch: (torch.randn(1, 80, 3000),), ("features",), part="get_encoder",
        settings=dict(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, decoder_layers=1)),
    "t5_small": hugging("T5-small, encoder, 64 tokens", "T5EncoderModel", "T5Config", ids(64), ("input_ids",)),
    "distilbert": hugging("DistilBERT, 128 tokens", "DistilBertModel", "DistilBertConfig", ids(128), ("input_ids",)),
    "llama": hugging(
        "Llama, 12 layers of 768, 64 tokens", "LlamaForCausalLM", "LlamaConfig", ids(64), ("input_ids",), ("logits",),
        settings=dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4, use_cache=False), dynamo=True),
    "segformer_b0": hugging(
        "SegFormer-B0, 256×256", "SegformerForSemanticSegmentation", "SegformerConfig", lambda torch: (torch.randn(1, 3, 256, 256),), ("pixels",), ("logits",)),
    "wav2vec2": hugging("wav2vec 2.0, a second", "Wav2Vec2Model", "Wav2Vec2Config", lambda torch: (torch.randn(1, 16000),), ("samples",)),
    "lstm": Entry("LSTM, 2 × 512 both ways, 64 steps", recurrent("LSTM"), lambda torch: (torch.randn(1, 64, 256),)),
    "gru": Entry("GRU, 2 × 512 both ways, 64 steps", recurrent("GRU"), lambda torch: (torch.randn(1, 64, 256),)),
}
ALL = README | MORE


def build(name):
    """The PyTorch module behind a file of that name, in evaluation mode; None where there is none, as for quantized files."""
    if name not in ALL or ALL[name].make is None:
        return None
    os.environ.update(HF_HUB_OFFLINE="1", YOLO_OFFLINE="1")
    import torch

    # Both GPT-2 files hold the same network.
    torch.manual_seed(zlib.crc32(name.split("_")[0].encode()))
    return ALL[name].make().eval()


def export(name, path):
    """Writes the file of that name as the exporters of its framework do."""
    import torch

    entry, module = ALL[name], build(name)
    if "yolo" in name:
        import ultralytics

        yolo = ultralytics.YOLO(name + ".yaml")
        yolo.model = module
        shutil.move(yolo.export(format="onnx", imgsz=640, opset=17, simplify=False), path)
        return
    how = {"dynamo": False, "opset_version": 17} | entry.how
    if how["dynamo"]:
        how |= dict(external_data=False, opset_version=18, verbose=False)
    with torch.no_grad():
        torch.onnx.export(module, entry.args(torch), path, input_names=list(entry.inputs), output_names=list(entry.outputs), **how)


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


def write(name, path):
    """Exports a model, or quantizes one that it exports first."""
    if name.endswith("_int8_qdq"):
        plain = name.removesuffix("_int8_qdq")
        source = os.path.join(os.path.dirname(path), plain + ".onnx")
        if not os.path.exists(source):
            write(plain, source)
        quantize(source, path)
    else:
        export(name, path)
        stamp(path)


def main():
    warnings.filterwarnings("ignore")
    folder, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:] or ["readme"]
    sets = {"readme": README, "more": MORE, "all": ALL}
    failed = False
    os.makedirs(folder, exist_ok=True)
    for name in [name for w in wanted for name in sets.get(w, [w])]:
        if name not in ALL:
            sys.exit(f"{name} is none of {', '.join(ALL)}")
        path = os.path.join(folder, name + ".onnx")
        if os.path.exists(path):
            continue
        try:
            write(name, path + ".part")
            os.replace(path + ".part", path)
        except Exception:
            traceback.print_exc()
            print(f"{name} could not be exported", flush=True)
            failed = True
            continue
        print(f"{path}: {os.path.getsize(path) / 1e6:.1f} MB", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main()
