"""Prune a network in a training loop of your own, then compile it: 30 lines that matter.

    python examples/own_loop.py [--epochs 6]

Needs scikit-learn (pip install "flexgroup[demo]") for its digits; nothing else is downloaded.
"""

from __future__ import annotations

import argparse

import torch

import flexgroup as fg
from flexgroup.zoo import digits_net, load_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()

    torch.manual_seed(0)
    data = load_data("digits")
    images, labels = data.train()
    model = digits_net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = options.epochs * -(-len(labels) // 64)

    # Sparsity grows over the first 60 % of the steps; the groups to keep are chosen anew every 10 steps.
    schedule = fg.Cubic(begin=0, end=max(1, int(0.6 * steps)), every=10)
    pruner = fg.Pruner(model, fg.Groups("4x1", unaligned="rows"), sparsity=0.9, schedule=schedule)
    for _ in range(options.epochs):
        for batch in torch.randperm(len(labels)).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            pruner.step()
    pruner.finalize()  # plain weights with zeros: save them, load them, run them anywhere

    test_images, test_labels = data.test()
    fast = fg.compile(model.eval(), (test_images[:1],))
    right = (fast(test_images).argmax(1) == test_labels).float().mean()
    print(fast.explain())
    print(fast.profile(test_images))
    print(f"{pruner.sparsity:.1%} of the targeted weights are zero; {right:.1%} of the test images are right")


if __name__ == "__main__":
    main()
