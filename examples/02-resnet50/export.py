"""Replaces resnet50.onnx by torchvision's ResNet-50 with trained weights (98 MB).

    pip install torch torchvision onnx onnxscript
    python export.py
"""

from pathlib import Path

import torch
from torchvision.models import ResNet50_Weights, resnet50

torch.onnx.export(
    resnet50(weights=ResNet50_Weights.DEFAULT).eval(), (torch.zeros(1, 3, 224, 224),), Path(__file__).parent / "resnet50.onnx",
    dynamo=True, external_data=False, input_names=["image"], output_names=["scores"],
)
