"""Writes gpt2.onnx: GPT-2 with its cache as inputs and outputs, for any number of new tokens behind any number of old ones.

    pip install torch onnx transformers
    python gpt2.py [NAME]           # gpt2, distilgpt2, gpt2-medium, .. ; `random` makes up the weights and downloads nothing
"""
import sys

import torch
import transformers as hf


class Decoder(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, ids, *past):
        cache = hf.DynamicCache()
        for i in range(len(past) // 2):
            cache.update(past[2 * i], past[2 * i + 1], i)
        out = self.net(input_ids=ids, past_key_values=cache, use_cache=True)
        return out.logits, *[t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]


def main(name):
    how = {"attn_implementation": "eager"}
    net = hf.GPT2LMHeadModel(hf.GPT2Config(**how)) if name == "random" else hf.GPT2LMHeadModel.from_pretrained(name, **how)
    c = net.config
    names = [f"{i}_{kind}" for i in range(c.n_layer) for kind in "kv"]
    past = [torch.zeros(1, c.n_head, 3, c.n_embd // c.n_head) for _ in names]
    axes = {"ids": {1: "rows"}, "logits": {1: "rows"}}
    axes |= {f"past_{n}": {2: "past"} for n in names} | {f"present_{n}": {2: "total"} for n in names}
    inputs, outputs = ["ids"] + [f"past_{n}" for n in names], ["logits"] + [f"present_{n}" for n in names]
    with torch.no_grad():
        torch.onnx.export(Decoder(net.eval()), (torch.zeros(1, 4, dtype=torch.long), *past), "gpt2.onnx", input_names=inputs,
                          output_names=outputs, dynamic_axes=axes, opset_version=17, dynamo=False)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "gpt2")
