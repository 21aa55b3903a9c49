"""Makes a tiny BERT with random weights, bert.onnx, and a recorded run of it, record.txt. With a name, that model instead.

    pip install torch onnx onnxscript transformers
    python make.py [bert-base-uncased]
"""

import sys
from pathlib import Path

import onnx
import torch
from transformers import BertConfig, BertModel

HERE = Path(__file__).parent


class Pooled(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, token_type_ids):
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return out.last_hidden_state, out.pooler_output


def main():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128,
        max_position_embeddings=64, attn_implementation="eager",
    )
    if len(sys.argv) > 1:
        net = Pooled(BertModel.from_pretrained(sys.argv[1], attn_implementation="eager")).eval()
    else:
        net = Pooled(BertModel(config)).eval()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(torch.randn_like(p) * 0.1)  # the initial weights are too alike to show a mistake

    ids = torch.randint(1, 128, (2, 12))
    mask = torch.ones(2, 12, dtype=torch.int64)
    mask[1, 9:] = 0
    types = torch.zeros(2, 12, dtype=torch.int64)
    types[:, 6:] = 1
    dims = {0: torch.export.Dim("batch", max=8), 1: torch.export.Dim("seq", max=net.model.config.max_position_embeddings)}
    torch.onnx.export(
        net, (ids, mask, types), HERE / "bert.onnx", dynamo=True, external_data=False, verbose=False,
        input_names=["input_ids", "attention_mask", "token_type_ids"], output_names=["last_hidden_state", "pooler_output"],
        dynamic_shapes=(dims, dims, dims),
    )
    model = onnx.load(HERE / "bert.onnx")
    for node in model.graph.node:
        del node.metadata_props[:]  # where in the exporting program a node came from: of no use here
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.metadata_props[:]
    onnx.save(model, HERE / "bert.onnx")

    with torch.no_grad():
        _, pooled = net(ids, mask, types)
    with open(HERE / "record.txt", "w") as f:
        for name, values in [("input_ids", ids), ("attention_mask", mask), ("token_type_ids", types), ("pooler_output", pooled)]:
            print(name, *values.shape, ":", *(repr(round(v, 8)) for v in values.flatten().tolist()), file=f)


main()
