"""Trains the network of this example on scikit-learn's digits and writes digits.onnx and heldout.bin.

    pip install torch onnx onnxscript scikit-learn
    python train.py
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

HERE = Path(__file__).parent


def network():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48 * 2 * 2, 64), nn.ReLU(), nn.Linear(64, 10),
    )


def main():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)

    x = torch.tensor(train_x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.tensor(train_y)
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    for _ in range(40):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
            optimizer.step()
        schedule.step()

    net.eval()
    with torch.no_grad():
        found = net(torch.tensor(test_x / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)).argmax(1).numpy()
    print("accuracy", (found == test_y).mean())

    batch = torch.export.Dim("batch")
    torch.onnx.export(
        net, (x[:2],), HERE / "digits.onnx", dynamo=True, external_data=False, verbose=False,
        input_names=["image"], output_names=["scores"], dynamic_shapes=({0: batch},),
    )
    model = onnx.load(HERE / "digits.onnx")
    for node in model.graph.node:
        del node.metadata_props[:]  # where in the exporting program a node came from: of no use here
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.metadata_props[:]
    onnx.save(model, HERE / "digits.onnx")
    # A record for each image: 64 pixels from 0 to 16, and the label.
    records = np.concatenate([test_x, test_y[:, None]], axis=1).astype(np.uint8)
    (HERE / "heldout.bin").write_bytes(records.tobytes())


main()
