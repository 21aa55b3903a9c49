"""The models of exports.py: families of torchvision, timm, transformers, ultralytics, diffusers and torch.nn, with seeded random weights.

A model is a Case in CASES. Configurations are small where weights do not change which operators an exporter writes.
"""
import typing

from models import plausible, recurrent, unet

# The two exporters of PyTorch, each with the extents of the example or with open ones.
SCRIPT, SCRIPT_OPEN, EXPORT, EXPORT_OPEN = "script", "script-open", "export", "export-open"
# Forms of rewritten.py, which are made of what the first exporter writes.
QUANTIZED = ("qdq", "qoperator", "dynamic")
BOTH = (SCRIPT_OPEN, EXPORT)
CASES = {}


class Case(typing.NamedTuple):
    """A model, and how it is exported and run."""

    library: str
    # Makes the module; takes whether the exporter traces TorchScript.
    make: typing.Callable
    # Makes the positional arguments for extents by name.
    args: typing.Callable
    # Names of the inputs, and of the axes of each that are open in open exports.
    axes: dict
    # Extents of what is exported, then of further runs of the open program.
    sizes: tuple = ({}, {})
    ways: tuple = BOTH
    # The largest error over the standard deviation of an output that passes; random weights let the errors of deep models grow.
    tolerance: float = 1e-4
    # What ONNX Runtime's optimizer of transformers calls a model, its heads and its width.
    optimizer: tuple = ()


def case(name, *args, **how):
    CASES[name] = Case(*args, **how)


def call(module, using, *keys):
    """A module that runs another by a function of the module and its positional arguments, and gives the tensors of its result."""
    import torch

    def flat(x):
        if isinstance(x, torch.Tensor):
            return [x]
        if isinstance(x, dict):
            return [t for v in x.values() for t in flat(v)]
        return [t for v in x for t in flat(v)] if isinstance(x, (list, tuple)) else []

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, *args):
            found = using(self.module, *args)
            if keys:
                found = [getattr(found, k) for k in keys]
            found = tuple(flat(found))
            return found if len(found) > 1 else found[0]

    return Called()


# ---- images


def image(size=224, channels=3):
    return lambda torch, batch=1, size=size: (torch.randn(batch, channels, size, size),)


BATCH = {"x": {0: "batch"}}
# Traced with one image, `export` takes the batch for a constant: open forms are exported with two.
BATCHES = ({"batch": 2}, {"batch": 1}, {"batch": 3})


def torchvision(name, size=224, kind="", keys=(), how={}, **more):
    def make(script):
        import torchvision

        models = getattr(torchvision.models, kind) if kind else torchvision.models
        module = plausible(getattr(models, name)(weights=None, **({"weights_backbone": None} if kind else {}), **how))
        return call(module, lambda m, x: m(x) if not keys else [m(x)[k] for k in keys])

    case(name, "torchvision", make, image(size), BATCH, BATCHES, **more)


def timm(name, size=224, **more):
    def make(script):
        import timm

        return call(plausible(timm.create_model(name, pretrained=False)), lambda m, x: m(x))

    case(name, "timm", make, image(size), BATCH, BATCHES, **more)


def images():
    for name in ("resnet18", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "mobilenet_v3_small", "shufflenet_v2_x0_5", "densenet121", "mnasnet0_5",
                 "swin_v2_t", "googlenet"):
        more = {"resnet18": (*BOTH, "extended", *QUANTIZED), "mobilenet_v3_small": (*BOTH, "qdq", "qoperator"), "shufflenet_v2_x0_5": (*BOTH, "qoperator")}
        torchvision(name, how={"init_weights": False} if name == "googlenet" else {}, ways=more.get(name, BOTH))
    torchvision("vit_b_32")
    torchvision("maxvit_t")
    torchvision("deeplabv3_mobilenet_v3_large", 256, "segmentation", ("out",))
    torchvision("lraspp_mobilenet_v3_large", 256, "segmentation", ("out",))
    torchvision("fcn_resnet50", 128, "segmentation", ("out",))
    for name in ("levit_128s", "efficientformer_l1", "mobilevit_xs", "coat_lite_tiny", "xcit_nano_12_p16_224", "poolformer_s12", "mixer_s32_224", "cait_xxs24_224",
                 "crossvit_tiny_240", "edgenext_xx_small", "fastvit_t8", "ghostnet_100", "hrnet_w18_small_v2", "volo_d1_224", "twins_pcpvt_small", "pvt_v2_b0",
                 "eva02_tiny_patch14_224", "res2net50_26w_4s", "sequencer2d_s", "focalnet_tiny_srf", "tiny_vit_5m_224", "hiera_tiny_224", "mambaout_femto", "nest_tiny",
                 "halonet26t", "botnet26t_256", "lambda_resnet26t", "gcvit_xxtiny", "mobilenetv4_conv_small", "skresnet18", "resnest14d", "convit_tiny",
                 "efficientvit_b0", "coatnet_nano_rw_224", "eca_nfnet_l0", "tnt_s_legacy_patch16_224", "vit_relpos_small_patch16_224"):
        # TorchScript's exporter does not fold or unfold these images; torch.export's knows attention of rank 4 alone.
        ways = {"volo_d1_224": (EXPORT,), "halonet26t": (EXPORT,), "hiera_tiny_224": (SCRIPT_OPEN,), "nest_tiny": (SCRIPT_OPEN,)}.get(name, BOTH)
        timm(name, {"crossvit_tiny_240": 240, "botnet26t_256": 256, "halonet26t": 256, "lambda_resnet26t": 256}.get(name, 224), ways=ways)


def video():
    def make(script):
        import torchvision

        return call(torchvision.models.video.r3d_18(weights=None), lambda m, x: m(x))

    case("r3d_18", "torchvision", make, lambda torch, batch=1: (torch.randn(batch, 3, 8, 64, 64),), BATCH, BATCHES)

    def flow(script):
        import torchvision

        return call(plausible(torchvision.models.optical_flow.raft_small(weights=None)), lambda m, a, b: m(a, b, num_flow_updates=3)[-1])

    case("raft_small", "torchvision", flow, lambda torch: (torch.rand(1, 3, 128, 160), torch.rand(1, 3, 128, 160)), {"a": {}, "b": {}}, ways=(SCRIPT, EXPORT), tolerance=1e-3)


# ---- detection


def detector(name, keys=("boxes", "scores", "labels"), size=320, **how):
    """A detector of torchvision with its NMS, of one image. Random weights make scores that are all alike, whose order rounding decides:
    those of scores are made larger, and few boxes are kept. `torch.export` cannot decide how many boxes there are."""

    def make(script):
        import torchvision

        module = plausible(getattr(torchvision.models.detection, name)(weights=None, weights_backbone=None, **how))
        for parameter in [p for n, p in module.named_parameters() if n.endswith(("cls_logits.weight", "cls_score.weight")) or "classification_head.module_list" in n]:
            parameter.data.mul_(30)
        return call(module, lambda m, x: [m([x])[0][k] for k in keys])

    case(name, "torchvision", make, lambda torch, size=size: (torch.rand(3, size, size),), {"x": {}}, ways=(SCRIPT,), tolerance=1e-3)


def detectors():
    few = dict(box_score_thresh=0.0, box_detections_per_img=20)
    detector("fasterrcnn_mobilenet_v3_large_320_fpn", **few)
    detector("maskrcnn_resnet50_fpn", ("boxes", "scores", "labels", "masks"), 224, min_size=224, max_size=256, **few)
    detector("keypointrcnn_resnet50_fpn", ("boxes", "scores", "labels", "keypoints"), 224, min_size=224, max_size=256, **few)
    # Its classes are unrolled in the file: ten are enough.
    detector("ssdlite320_mobilenet_v3_large", num_classes=11, score_thresh=0.0, detections_per_img=20, topk_candidates=50)
    detector("retinanet_resnet50_fpn", size=224, min_size=224, max_size=256, score_thresh=0.0, detections_per_img=20, topk_candidates=50)
    detector("fcos_resnet50_fpn", size=224, min_size=224, max_size=256, score_thresh=0.0, detections_per_img=20, topk_candidates=50)


def yolo(name, **how):
    """A detector of ultralytics as its own exporter leaves it."""
    case(name + ("_nms" if how.get("nms") else ""), "ultralytics", (name, how), lambda torch, size=320: (torch.rand(1, 3, size, size),), {"images": {}}, ways=(SCRIPT,),
         tolerance=1e-3)


def yolos():
    yolo("yolov8n", nms=True, conf=0.3, iou=0.5, max_det=50)
    yolo("yolo11n-seg", nms=True, conf=0.3, max_det=20)
    yolo("yolo11n-pose")
    yolo("yolo11n-obb")
    yolo("yolov10n")
    yolo("yolo12n")
    yolo("yolo26n")
    yolo("yolov8n-seg")
    yolo("yolov5nu")
    yolo("rtdetr-l")


# ---- transformers

SEQ = {"ids": {0: "batch", 1: "seq"}}
SEQS = ({"batch": 2, "seq": 16}, {"batch": 1, "seq": 40}, {"batch": 3, "seq": 7})


def ids(torch, batch=1, seq=32):
    return (torch.randint(3, 90, (batch, seq)),)


def masked(torch, batch=1, seq=32):
    mask = torch.ones(batch, seq, dtype=torch.int64)
    mask[-1, seq - 3:] = 0
    return (*ids(torch, batch, seq), mask)


MASKED = SEQ | {"mask": SEQ["ids"]}


def hugging(name, model, config, args, axes, using, keys=("last_hidden_state",), sizes=SEQS, sub={}, **settings):
    """A model of transformers by the names of its classes; `sub` holds settings of configurations within its own."""
    more = {k: settings.pop(k) for k in ("ways", "tolerance", "optimizer") if k in settings}

    def make(script):
        import transformers

        c, kind = getattr(transformers, config)(**settings, **{k: dict(v) for k, v in sub.items()}), getattr(transformers, model)
        # TorchScript cannot follow how masks are made for the fused kernel; no exporter knows the grouped products of experts.
        c._experts_implementation = "batched_mm"
        c._attn_implementation = "sdpa" if kind._supports_sdpa and not script else "eager"
        return call(kind(c), using, *keys)

    case(name, "transformers", make, args, axes, sizes, **more)


SMALL = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256, vocab_size=100)


def encoders():
    both = lambda m, i, k: m(input_ids=i, attention_mask=k)
    # As operators of bytes ONNX Runtime refuses it itself: the quantizer leaves bytes where a table of floats is meant.
    rewritten = (*BOTH, "extended", "optimizer", "optimizer-open", "optimizer-gpu", "packed", "qdq", "dynamic")
    hugging("bert", "BertModel", "BertConfig", masked, MASKED, both, ("last_hidden_state", "pooler_output"), ways=rewritten, optimizer=("bert", 4, 128), **SMALL)
    hugging("distilbert", "DistilBertModel", "DistilBertConfig", masked, MASKED, both, dim=128, n_layers=2, n_heads=4, hidden_dim=256, vocab_size=100)
    for name, part in {"albert": "Albert", "electra": "Electra", "deberta": "Deberta", "deberta_v2": "DebertaV2", "mpnet": "MPNet", "roberta": "Roberta",
                       "mobilebert": "MobileBert", "squeezebert": "SqueezeBert", "roformer": "RoFormer", "convbert": "ConvBert", "fnet": "FNet", "esm": "Esm",
                       "modernbert": "ModernBert"}.items():
        # TorchScript's exporter has no Fourier transform.
        args = (ids, SEQ, lambda m, i: m(input_ids=i)) if name == "fnet" else (masked, MASKED, both)
        more = {"embedding_size": 64} if name in ("albert", "electra") else {"ways": (EXPORT,)} if name == "fnet" else {}
        if name.startswith("deberta"):
            more = dict(relative_attention=True, position_buckets=16, pos_att_type=["p2c", "c2p"])
        if name == "mobilebert":
            more = dict(embedding_size=64, intra_bottleneck_size=64)
        if name == "squeezebert":
            more = dict(embedding_size=128)
        if name == "esm":
            more = dict(pad_token_id=1, mask_token_id=2, position_embedding_type="rotary")
        if name == "modernbert":
            more = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2, local_attention=8, global_attn_every_n_layers=2)
        hugging(name, f"{part}Model", f"{part}Config", *args, **{**SMALL, **more})


def decode(model, tokens, *past):
    """One step of a decoder: tokens behind keys and values of each layer in turn."""
    import transformers

    cache = transformers.DynamicCache(config=model.config)
    for layer in range(len(past) // 2):
        cache.update(past[2 * layer], past[2 * layer + 1], layer)
    found = model(input_ids=tokens, past_key_values=cache, use_cache=True)
    return [found.logits, *[(layer.keys, layer.values) for layer in found.past_key_values.layers]]


def decoder(name, part, heads, size, layers=2, **settings):
    """A decoder twice: a prompt without a cache, and a few tokens behind one."""
    settings = {"vocab_size": 100, **settings}
    model, config = f"{part}ForCausalLM", f"{part}Config"
    model = "GPT2LMHeadModel" if part == "GPT2" else model
    config = "Gemma3TextConfig" if part == "Gemma3" else config
    # Without a mask they look for sequences that begin anew, by an operator that TorchScript's exporter lacks.
    hugging(name, model, config, masked, MASKED, lambda m, i, k: m(input_ids=i, attention_mask=k, use_cache=False), ("logits",), **settings)

    def args(torch, batch=1, seq=1, past=24):
        return (*ids(torch, batch, seq), *[torch.randn(batch, heads, past, size) for _ in range(2 * layers)])

    axes = SEQ | {f"past_{i // 2}_{'kv'[i % 2]}": {0: "batch", 2: "past"} for i in range(2 * layers)}
    sizes = ({"batch": 2, "seq": 2, "past": 12}, {"batch": 1, "seq": 1, "past": 30}, {"batch": 1, "seq": 5, "past": 3})
    hugging(f"{name}_past", model, config, args, axes, decode, (), sizes, **settings)


GROUPED = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)


def decoders():
    decoder("gpt2", "GPT2", 4, 32, n_embd=128, n_layer=2, n_head=4, ways=(*BOTH, "extended", "optimizer", "optimizer-open", "dynamic"), optimizer=("gpt2", 4, 128))
    for name in ("Llama", "Qwen2", "Mistral", "Phi3", "Granite", "Olmo2"):
        decoder(name.lower(), name, 2, 32, **GROUPED, **({"pad_token_id": 0} if name == "Phi3" else {}))
    for name in ("Qwen3", "Gemma", "Gemma2"):
        decoder(name.lower(), name, 2, 32, **GROUPED, head_dim=32)
    decoder("gemma3", "Gemma3", 2, 32, **GROUPED, head_dim=32, sliding_window=64)
    decoder("gpt_neox", "GPTNeoX", 4, 32, **{k: GROUPED[k] for k in list(GROUPED)[:4]})
    decoder("falcon", "Falcon", 1, 32, hidden_size=128, num_hidden_layers=2, num_attention_heads=4)
    decoder("opt", "OPT", 4, 32, hidden_size=128, ffn_dim=256, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=128)
    decoder("bloom", "Bloom", 4, 32, hidden_size=128, n_layer=2, n_head=4)
    decoder("mixtral", "Mixtral", 2, 32, **GROUPED, num_local_experts=4)
    decoder("qwen3_moe", "Qwen3Moe", 2, 32, **GROUPED, head_dim=32, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)
    decoder("gpt_oss", "GptOss", 2, 32, **GROUPED, head_dim=32, num_local_experts=4, num_experts_per_tok=2, sliding_window=64)
    hugging("mamba", "MambaForCausalLM", "MambaConfig", ids, SEQ, lambda m, i: m(input_ids=i, use_cache=False), ("logits",), hidden_size=64, num_hidden_layers=2, vocab_size=100,
            state_size=8, ways=(SCRIPT, EXPORT))


def pair(torch, batch=1, seq=32, target=8):
    return (*masked(torch, batch, seq), torch.randint(3, 90, (batch, target)))


def translators():
    axes = MASKED | {"target": {0: "batch", 1: "target"}}
    sizes = ({"batch": 2, "seq": 16, "target": 6}, {"batch": 1, "seq": 30, "target": 1}, {"batch": 3, "seq": 5, "target": 9})
    using = lambda m, i, k, t: m(input_ids=i, attention_mask=k, decoder_input_ids=t, use_cache=False)
    keys = ("logits",)
    hugging("t5", "T5ForConditionalGeneration", "T5Config", pair, axes, using, keys, sizes, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, vocab_size=100,
            ways=(*BOTH, "optimizer", "optimizer-open", "dynamic"), optimizer=("t5", 4, 128))
    hugging("mt5", "MT5ForConditionalGeneration", "MT5Config", pair, axes, using, keys, sizes, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, vocab_size=100,
            feed_forward_proj="gated-gelu")
    small = dict(d_model=128, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=256, decoder_ffn_dim=256, vocab_size=100)
    for name, part in {"bart": "Bart", "mbart": "MBart", "pegasus": "Pegasus"}.items():
        more = dict(ways=(*BOTH, "optimizer", "optimizer-gpu", "extended"), optimizer=("bart", 4, 128)) if name == "bart" else {}
        hugging(name, f"{part}ForConditionalGeneration", f"{part}Config", pair, axes, using, keys, sizes, **small, **more)
    hugging("marian", "MarianMTModel", "MarianConfig", pair, axes, using, keys, sizes, **small, pad_token_id=0)
    whisper = {**small, "max_source_positions": 150, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "decoder_start_token_id": 2}
    hugging("whisper_encoder", "WhisperModel", "WhisperConfig", lambda torch, batch=1: (torch.randn(batch, 80, 300),), BATCH, lambda m, x: m.get_encoder()(x),
            sizes=BATCHES, **whisper)
    hugging("whisper_decoder", "WhisperModel", "WhisperConfig", lambda torch, batch=1, seq=8: (*masked(torch, batch, seq), torch.randn(batch, 150, 128)),
            MASKED | {"states": {0: "batch"}}, lambda m, i, k, s: m.get_decoder()(input_ids=i, attention_mask=k, encoder_hidden_states=s, use_cache=False), sizes=SEQS, **whisper)


def sound():
    axes = {"samples": {0: "batch", 1: "samples"}}
    sizes = ({"batch": 2, "samples": 4000}, {"batch": 1, "samples": 6400}, {"batch": 1, "samples": 3217})
    args = lambda torch, batch=1, samples=4000: (torch.randn(batch, samples),)
    for name, part in {"wav2vec2": "Wav2Vec2", "hubert": "Hubert", "wavlm": "WavLM", "data2vec_audio": "Data2VecAudio", "sew": "SEW"}.items():
        more = {"squeeze_factor": 2} if name == "sew" else {}
        hugging(name, f"{part}Model", f"{part}Config", args, axes, lambda m, x: m(x), sizes=sizes, **{**SMALL, **more}, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
    hugging("encodec", "EncodecModel", "EncodecConfig", lambda torch: (torch.randn(1, 1, 3200),), {"x": {}}, lambda m, x: m.encode(x, bandwidth=6.0).audio_codes, (), ({}, {}),
            ways=(SCRIPT,), num_filters=8, hidden_size=32, codebook_dim=32, codebook_size=64)
    hugging("ast", "ASTModel", "ASTConfig", lambda torch, batch=1: (torch.randn(batch, 128, 128),), BATCH, lambda m, x: m(x), sizes=BATCHES, max_length=128,
            **{k: SMALL[k] for k in list(SMALL)[:4]})


VISION = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256)


def seeing():
    look = lambda m, x: m(pixel_values=x)
    clip = {"text_config": {**SMALL, "eos_token_id": 95, "projection_dim": 64}, "vision_config": {**VISION, "image_size": 64, "patch_size": 16, "projection_dim": 64}}
    hugging("clip", "CLIPModel", "CLIPConfig", lambda torch, batch=2, seq=16: (*masked(torch, batch, seq), torch.randn(batch, 3, 64, 64)), MASKED | {"pixels": {0: "batch"}},
            lambda m, i, k, x: m(input_ids=i, attention_mask=k, pixel_values=x), ("logits_per_image", "text_embeds", "image_embeds"), sub=clip, projection_dim=64,
            ways=(*BOTH, "optimizer"), optimizer=("clip", 4, 128))
    hugging("siglip", "SiglipModel", "SiglipConfig", lambda torch, batch=2: (torch.randint(3, 90, (batch, 16)), torch.randn(batch, 3, 64, 64)),
            {"ids": {0: "batch"}, "pixels": {0: "batch"}}, lambda m, i, x: m(input_ids=i, pixel_values=x), ("logits_per_image",), BATCHES,
            sub={"text_config": {**SMALL, "max_position_embeddings": 16}, "vision_config": {**VISION, "image_size": 64, "patch_size": 16}})
    hugging("dinov2", "Dinov2Model", "Dinov2Config", image(70), BATCH, look, sizes=BATCHES, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=70, patch_size=14)
    hugging("beit", "BeitModel", "BeitConfig", image(64), BATCH, look, sizes=BATCHES, **VISION, image_size=64, use_relative_position_bias=True)
    hugging("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", image(128), BATCH, look, ("logits",), BATCHES, depths=[1, 1, 1, 1])
    hugging("dpt", "DPTForDepthEstimation", "DPTConfig", image(64), BATCH, look, ("predicted_depth",), BATCHES, **{**VISION, "num_hidden_layers": 4}, image_size=64, patch_size=16,
            backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 32, 64, 128], fusion_hidden_size=32)
    hugging("swin2sr", "Swin2SRForImageSuperResolution", "Swin2SRConfig", image(32), BATCH, look, ("reconstruction",), BATCHES, image_size=32, embed_dim=60, depths=[2], num_heads=[6])
    hugging("vit", "ViTModel", "ViTConfig", image(64), BATCH, look, ("last_hidden_state", "pooler_output"), BATCHES, **VISION, image_size=64,
            ways=(*BOTH, "optimizer", "optimizer-gpu", "qdq"), optimizer=("vit", 4, 128))
    hugging("yolos", "YolosForObjectDetection", "YolosConfig", image(64), BATCH, look, ("logits", "pred_boxes"), BATCHES, **VISION, image_size=[64, 64], num_detection_tokens=10)
    hugging("sam_decoder", "SamModel", "SamConfig", lambda torch: (torch.randn(1, 256, 8, 8), torch.rand(1, 1, 2, 2) * 128, torch.ones(1, 1, 2, dtype=torch.int64)),
            {"features": {}, "points": {}, "labels": {}}, lambda m, f, p, l: m(image_embeddings=f, input_points=p, input_labels=l), ("iou_scores", "pred_masks"), ({}, {}), ways=(SCRIPT, EXPORT),
            sub={"vision_config": {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 128, "global_attn_indexes": [0]},
                 "prompt_encoder_config": {"image_size": 128}})
    hugging("sam_encoder", "SamModel", "SamConfig", image(128), BATCH, lambda m, x: m.vision_encoder(x), sizes=BATCHES,
            sub={"vision_config": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 128, "window_size": 3, "global_attn_indexes": [0]}})
    hugging("blip", "BlipForImageTextRetrieval", "BlipConfig", lambda torch, batch=2: (torch.randint(3, 90, (batch, 12)), torch.randn(batch, 3, 64, 64)),
            {"ids": {0: "batch"}, "pixels": {0: "batch"}}, lambda m, i, x: m(input_ids=i, pixel_values=x), ("itm_score",), BATCHES,
            sub={"text_config": {**SMALL, "encoder_hidden_size": 128}, "vision_config": {**VISION, "image_size": 64, "patch_size": 16}})
    # ONNX Runtime has no kernel for the samples that TorchScript's exporter writes.
    hugging("deformable_detr", "DeformableDetrForObjectDetection", "DeformableDetrConfig", image(96), BATCH, look, ("logits", "pred_boxes"), BATCHES, ways=(EXPORT,), d_model=64,
            encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, num_queries=20, use_pretrained_backbone=False, backbone="resnet18",
            use_timm_backbone=True, tolerance=1e-3)
    # TorchScript's exporter writes a sum that ONNX Runtime finds of two shapes.
    hugging("patchtst", "PatchTSTForPrediction", "PatchTSTConfig", lambda torch, batch=2: (torch.randn(batch, 64, 3),), BATCH, lambda m, x: m(past_values=x), ("prediction_outputs",),
            BATCHES, num_input_channels=3, context_length=64, prediction_length=8, d_model=32, num_attention_heads=4, num_hidden_layers=2, patch_length=8, patch_stride=8, ways=(EXPORT,))


# ---- diffusion


def diffuser(name, part, args, axes, using, sizes, ways=BOTH, optimizer=(), **settings):
    def make(script):
        import diffusers

        return call(getattr(diffusers, part)(**settings), using)

    case(name, "diffusers", make, args, axes, sizes, ways, optimizer=optimizer)


def diffusion():
    sizes = ({"batch": 2, "size": 16}, {"batch": 1, "size": 24})
    free = {0: "batch", 2: "size", 3: "size"}
    latent = lambda torch, batch, size: (torch.randn(batch, 4, size, size), torch.rand(batch) * 900, torch.randn(batch, 7, 64))
    small = dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8)
    diffuser("unet_conditional", "UNet2DConditionModel", latent, {"x": {0: "batch"}, "t": {0: "batch"}, "text": {0: "batch"}}, lambda m, x, t, c: m(x, t, c).sample,
             ({"batch": 2, "size": 16}, {"batch": 1, "size": 16}), down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
             cross_attention_dim=64, attention_head_dim=8, sample_size=16, **small, ways=(*BOTH, "optimizer"), optimizer=("unet", 0, 0))
    diffuser("unet_plain", "UNet2DModel", lambda torch, batch, size: latent(torch, batch, size)[:2], {"x": {0: "batch"}, "t": {0: "batch"}}, lambda m, x, t: m(x, t).sample,
             ({"batch": 2, "size": 16}, {"batch": 1, "size": 16}), in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
             up_block_types=("AttnUpBlock2D", "UpBlock2D"), attention_head_dim=8, sample_size=16, **small)
    blocks = dict(down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **small)
    diffuser("vae_decoder", "AutoencoderKL", lambda torch, batch, size: latent(torch, batch, size)[:1], {"x": free}, lambda m, x: m.decode(x).sample, sizes, (*BOTH, "optimizer", "optimizer-open"),
             ("vae", 0, 0), **blocks)
    diffuser("vae_encoder", "AutoencoderKL", lambda torch, batch, size: (torch.randn(batch, 3, 2 * size, 2 * size),), {"x": free}, lambda m, x: m.encode(x).latent_dist.mode(), sizes,
             **blocks)
    diffuser("dit", "DiTTransformer2DModel", lambda torch, batch, size: (torch.randn(batch, 4, size, size), torch.randint(0, 900, (batch,)), torch.randint(0, 10, (batch,))),
             {"x": {0: "batch"}, "t": {0: "batch"}, "label": {0: "batch"}}, lambda m, x, t, c: m(x, timestep=t, class_labels=c).sample,
             ({"batch": 2, "size": 16}, {"batch": 1, "size": 16}), num_layers=2, num_attention_heads=4, attention_head_dim=16, sample_size=16, norm_num_groups=8)
    diffuser("sd3", "SD3Transformer2DModel", lambda torch, batch, size: (torch.randn(batch, 4, size, size), torch.randn(batch, 7, 64), torch.randn(batch, 32), torch.rand(batch) * 900),
             {k: {0: "batch"} for k in ("x", "text", "pooled", "t")}, lambda m, x, c, p, t: m(x, c, p, t).sample, ({"batch": 2, "size": 16}, {"batch": 1, "size": 16}),
             in_channels=4, out_channels=4, num_layers=2, num_attention_heads=4, attention_head_dim=16, joint_attention_dim=64, caption_projection_dim=64, pooled_projection_dim=32,
             sample_size=16, pos_embed_max_size=16)
    # TorchScript's exporter has no RMS normalization.
    diffuser("flux", "FluxTransformer2DModel",
             lambda torch, batch, size: (torch.randn(batch, size, 16), torch.randn(batch, 7, 64), torch.randn(batch, 32), torch.rand(batch), torch.rand(size, 3), torch.zeros(7, 3)),
             {"x": {0: "batch"}, "text": {0: "batch"}, "pooled": {0: "batch"}, "t": {0: "batch"}, "at": {}, "text_at": {}},
             lambda m, x, c, p, t, a, b: m(hidden_states=x, encoder_hidden_states=c, pooled_projections=p, timestep=t, img_ids=a, txt_ids=b).sample,
             ({"batch": 2, "size": 16}, {"batch": 1, "size": 16}), in_channels=16, num_layers=1, num_single_layers=1, num_attention_heads=4, attention_head_dim=16,
             joint_attention_dim=64, pooled_projection_dim=32, axes_dims_rope=(4, 6, 6), ways=(EXPORT,))


# ---- torch.nn


def plain(name, make, args, axes, sizes=({}, {}), ways=(SCRIPT_OPEN, EXPORT_OPEN), tolerance=1e-4):
    case(name, "torch.nn", lambda script: call(make(), lambda m, *given: m(*given)), args, axes, sizes, ways, tolerance)


def tagger(cell, **how):
    """Embeddings, a recurrent network over sequences of their own lengths, a linear layer."""
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(100, 32)
            self.layers = getattr(nn, cell)(32, 48, batch_first=True, **how)
            self.head = nn.Linear(48 * (2 if how.get("bidirectional") else 1), 9)

        def forward(self, ids, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=True)
            found, _ = nn.utils.rnn.pad_packed_sequence(self.layers(packed)[0], batch_first=True)
            return self.head(found)

    return Tagger()


def networks():
    x = lambda torch, batch=1, seq=24: (torch.randn(batch, seq, 64),)
    axes, sizes = {"x": {0: "batch", 1: "seq"}}, ({"batch": 2, "seq": 12}, {"batch": 1, "seq": 30})

    def cells(cell, **how):
        def make():
            from torch import nn

            return call(getattr(nn, cell)(64, 96, batch_first=True, **how), lambda m, x: m(x))

        return make

    both = (SCRIPT_OPEN, EXPORT)
    plain("lstm", cells("LSTM", num_layers=2, bidirectional=True), x, axes, sizes, (*both, "extended", "dynamic"))
    plain("gru", cells("GRU", num_layers=2, bidirectional=True), x, axes, sizes, both)
    plain("rnn", cells("RNN", nonlinearity="relu"), x, axes, sizes, both)
    # `export` refuses packed sequences: their batch sizes depend on data.
    packed = lambda torch, batch=3, seq=10: (torch.randint(0, 100, (batch, seq)), torch.tensor([seq - 2 * i for i in range(batch)]))
    lengths = {"ids": {0: "batch", 1: "seq"}, "lengths": {0: "batch"}}
    for cell in ("LSTM", "GRU"):
        plain(f"{cell.lower()}_packed", lambda cell=cell: tagger(cell, bidirectional=True), packed, lengths, ({"batch": 3, "seq": 10}, {"batch": 1, "seq": 17}), (SCRIPT_OPEN,))

    def translator():
        from torch import nn

        return call(nn.Transformer(64, 4, 2, 2, 128, batch_first=True), lambda m, s, t: m(s, t, tgt_mask=m.generate_square_subsequent_mask(8), tgt_is_causal=True))

    plain("transformer", translator, lambda torch, batch=2: (torch.randn(batch, 20, 64), torch.randn(batch, 8, 64)), {"s": {0: "batch"}, "t": {0: "batch"}}, BATCHES, both)
    plain("unet", unet, image(64), {"x": {0: "batch", 2: "size", 3: "size"}}, ({"batch": 2, "size": 64}, {"batch": 1, "size": 96}), both)
    plain("operators", operators, lambda torch, batch=2, size=24: (torch.randn(batch, 8, size, size), torch.rand(batch, 10, 10, 2) * 2 - 1),
          {"x": {0: "batch", 2: "size", 3: "size"}, "grid": {0: "batch"}}, ({"batch": 2, "size": 24}, {"batch": 3, "size": 32}))
    plain("indices", indices, lambda torch, rows=20: (torch.randn(rows, 6), torch.randint(0, 20, (2, 50))), {"x": {}, "edges": {}}, ways=(SCRIPT, EXPORT))
    plain("spectrum", spectrum, lambda torch, batch=2: (torch.randn(batch, 1024),), BATCH, BATCHES, (EXPORT,))
    plain("autoregression", autoregression, lambda torch, batch=1: (torch.randn(batch, 16),), BATCH, BATCHES, (SCRIPT,))


def operators():
    """What layers of images leave out: windows, samples, sorted values, running sums."""
    import torch
    from torch import nn

    class Operators(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.shuffle, self.norm = nn.ConvTranspose2d(8, 8, 3, 2, 1, 1, groups=2), nn.PixelShuffle(2), nn.InstanceNorm2d(8, affine=True)
            self.slope, self.group = nn.PReLU(8), nn.GroupNorm(4, 8)

        def forward(self, x, grid):
            f = nn.functional
            windows = f.unfold(x, 3, padding=1, stride=2).mean(2)
            sampled = f.grid_sample(x, grid, align_corners=False, padding_mode="border")
            up = self.slope(self.norm(self.up(x)))
            bicubic = f.interpolate(self.group(x), scale_factor=1.5, mode="bicubic", align_corners=False)
            pooled = torch.cat([f.adaptive_avg_pool2d(x, (1, 1)), f.adaptive_max_pool2d(x, (1, 1))], 1).flatten(1)
            best, at = torch.topk(x.flatten(2), 5, dim=2)
            running = torch.cumsum(x.mean(1), 1)
            return (windows, sampled, up, bicubic, pooled, best, at, running, self.shuffle(x), torch.roll(x, (1, 2), (2, 3)), x.flip(3), f.pad(x, (1, 2, 3, 1), mode="reflect"),
                    torch.einsum("bchw,bdhw->bcd", x, x), torch.where(x > 0.5, x, x.exp()), x.argmax(1), x.var((2, 3)), torch.linalg.vector_norm(x, dim=1), torch.tril(x[:, 0]))

    return Operators().eval()


def indices():
    """A layer of a graph network: gather along edges, scatter sums and maxima back to nodes."""
    import torch
    from torch import nn

    class Graph(nn.Module):
        def __init__(self):
            super().__init__()
            self.edge, self.node = nn.Linear(12, 16), nn.Linear(22, 8)

        def forward(self, x, edges):
            source, target = edges[0], edges[1]
            sent = torch.relu(self.edge(torch.cat([x[source], x[target]], 1)))
            sums = torch.zeros(x.shape[0], 16).index_add(0, target, sent)
            most = torch.full((x.shape[0], 16), -1.0).scatter_reduce(0, target[:, None].expand(-1, 16), sent, "amax")
            return self.node(torch.cat([x, sums], 1)), most

    return Graph()


def spectrum():
    """Log magnitudes of a short-time Fourier transform."""
    import torch

    return call(torch.nn.Identity(), lambda m, x: torch.log1p(torch.stft(x, 64, 32, window=torch.hann_window(64), return_complex=True).abs()))


def autoregression():
    """A scripted loop whose length depends on data, with a branch inside."""
    import torch

    class Loop(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = torch.nn.Linear(16, 16)
            self.steps = torch.jit.script(stepwise)

        def forward(self, x):
            return self.steps(x, self.cell.weight, self.cell.bias)

    return Loop()


def stepwise(x, weight, bias):
    steps = 0
    while steps < 10 and bool(x.abs().max() > 0.05):
        if bool(x.sum() > 0):
            x = (x @ weight.t() + bias).tanh() * 0.7
        else:
            x = -x * 0.6
        steps += 1
    return x


for part in (images, video, detectors, yolos, encoders, decoders, translators, sound, seeing, diffusion, networks):
    part()
