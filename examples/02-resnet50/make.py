"""Makes the two files of this example: the light ResNet-50 of the package `onnx`, and a picture.

    pip install onnx pillow numpy
    python make.py
"""

from pathlib import Path

import numpy as np
import onnx
from PIL import Image

HERE = Path(__file__).parent


def main():
    source = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
    model = onnx.load(source)
    names = {"gpu_0/data_0": "image", "gpu_0/softmax_1": "scores"}
    for value in [*model.graph.input, *model.graph.output]:
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    onnx.checker.check_model(model)
    onnx.save(model, HERE / "resnet50.onnx")

    y, x = np.mgrid[0:180, 0:320].astype(np.float32)
    disc = np.hypot(x - 200, y - 90) < 60
    rgb = np.stack([x / 320 * 255, y / 180 * 255, 128 + 100 * np.sin(x / 20)], axis=-1)
    rgb[disc] = [240, 120, 20]
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(HERE / "picture.png", optimize=True)


main()
