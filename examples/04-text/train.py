"""Writes tales.onnx: a decoder of three layers over bytes, trained on short tales that this script makes up, exported with its cache.

    pip install torch onnx
    python train.py

The tales are made by the rules below, so the text is nobody's. One core trains the model in some minutes.
"""
import random

import torch
import torch.nn.functional as F
from torch import nn

LAYERS, HEADS, WIDTH, CONTEXT = 3, 6, 96, 256
STEPS, BATCH = 900, 12

WHO = {
    "fox": "she", "miller": "he", "queen": "she", "raven": "he", "fisherman": "he", "old woman": "she", "hedgehog": "he", "king": "he",
    "girl": "she", "giant": "he", "goose": "she", "tailor": "he", "witch": "she", "wolf": "he",
}
MOOD = ["clever", "lonely", "hungry", "brave", "tired", "proud", "gentle", "stubborn"]
PLACE = ["at the edge of a dark wood", "in a small house by the sea", "under a green hill", "beside a slow river", "in a tower of stone"]
THING = ["a golden ring", "a silver key", "a loaf of bread", "a red lantern", "a singing bird", "an old map", "a bag of salt", "a pair of shoes"]
FOUND = ["in the snow", "under a stone", "behind the door", "on the road", "at the bottom of the well"]
WHEN = ["One morning", "One cold night", "When the spring came", "On the longest day of the year", "After three days of rain"]
GIVE = ["I will give you {thing} for it", "tell me your name and I will help you", "nothing is lost that is freely given", "come with me to the market"]
END = [
    "And if they have not moved away, they live there still.",
    "From that day on nobody was hungry again.",
    "And that is why the river sings at night.",
    "So they shared what they had, and it was enough.",
]


def tale(r):
    """A tale of a few sentences."""
    a, b = r.sample(sorted(WHO), 2)
    mood, thing, other = r.choice(MOOD), r.choice(THING), r.choice(THING)
    he, it = WHO[a], WHO[b]
    want = r.choice(GIVE).format(thing=other)
    lines = [f"Once upon a time there was a {mood} {a} who lived {r.choice(PLACE)}."]
    lines.append(f"{r.choice(WHEN)} the {a} found {thing} {r.choice(FOUND)}.")
    if r.random() < 0.5:
        lines.append(f"{he.capitalize()} took it home and told nobody.")
    lines.append(f"But a {r.choice(MOOD)} {b} had seen it all.")
    lines.append(f'"{want[0].upper()}{want[1:]}," said the {b}, and {it} smiled.')
    if r.random() < 0.6:
        lines.append(f"The {a} thought about it for a long time, for {he} was {mood}.")
    lines.append(f'"Very well," said the {a}, and gave {"him" if it == "he" else "her"} {thing}.')
    return " ".join(lines + [r.choice(END)]) + "\n"


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x, k, v, unseen):
        batch, rows, _ = x.shape
        q, new_k, new_v = (t.view(batch, rows, HEADS, -1).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        # What the model remembers grows by the new rows.
        k, v = torch.cat([k, new_k], 2), torch.cat([v, new_v], 2)
        scores = q @ k.transpose(2, 3) * (WIDTH // HEADS) ** -0.5
        mixed = scores.masked_fill(unseen, float("-inf")).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, rows, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x)))), k, v


class Tales(nn.Module):
    def __init__(self):
        super().__init__()
        self.bytes, self.places = nn.Embedding(128, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks, self.norm = nn.ModuleList(Block() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)
        for table in (self.bytes, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids, *past):
        begin, rows = past[0].shape[2], ids.shape[1]
        at = torch.arange(begin, begin + rows)
        unseen = torch.arange(begin + rows)[None, :] > at[:, None]
        x, kept = self.bytes(ids) + self.places(at), []
        for i, block in enumerate(self.blocks):
            x, k, v = block(x, past[2 * i], past[2 * i + 1], unseen)
            kept += [k, v]
        return self.norm(x) @ self.bytes.weight.T, *kept


def nothing(batch):
    return [torch.zeros(batch, HEADS, 0, WIDTH // HEADS) for _ in range(2 * LAYERS)]


def main():
    torch.manual_seed(1)
    r = random.Random(1)
    text = "".join(tale(r) for _ in range(4000))
    assert text.isascii()
    data = torch.tensor(list(text.encode()))
    starts = torch.tensor([0] + [i + 1 for i, c in enumerate(text) if c == "\n"])
    starts = starts[starts < len(data) - CONTEXT - 1]
    net = Tales()
    print(sum(p.numel() for p in net.parameters()), "parameters,", len(data), "bytes of text")
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, STEPS, pct_start=0.1)
    for step in range(STEPS):
        # Half of the rows begin where a tale does.
        at = torch.where(torch.rand(BATCH) < 0.5, starts[torch.randint(len(starts), (BATCH,))], torch.randint(len(data) - CONTEXT - 1, (BATCH,)))
        rows = data[at[:, None] + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(net(rows[:, :-1], *nothing(BATCH))[0].flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            print(step, f"{loss.item():.4f}", flush=True)
    net.eval()
    names = [f"{i}_{kind}" for i in range(LAYERS) for kind in "kv"]
    past = [torch.zeros(1, HEADS, 3, WIDTH // HEADS) for _ in names]
    axes = {"ids": {0: "batch", 1: "rows"}, "logits": {0: "batch", 1: "rows"}}
    axes |= {f"past_{n}": {0: "batch", 2: "past"} for n in names} | {f"present_{n}": {0: "batch", 2: "total"} for n in names}
    inputs, outputs = ["ids"] + [f"past_{n}" for n in names], ["logits"] + [f"present_{n}" for n in names]
    torch.onnx.export(net, (torch.zeros(1, 4, dtype=torch.long), *past), "tales.onnx", input_names=inputs, output_names=outputs,
                      dynamic_axes=axes, opset_version=17, dynamo=False)


if __name__ == "__main__":
    main()
