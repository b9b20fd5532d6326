"""Prune in Lightning's Trainer: one callback more, and one for an average of the weights.

    python examples/lightning_trainer.py [--epochs 6]

Needs pip install "flexgroup[lightning,demo]": the digits come with scikit-learn, nothing else is downloaded.
"""

from __future__ import annotations

import argparse

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import flexgroup as fg
from flexgroup.integrations.lightning import PruningCallback
from flexgroup.zoo import digits_net, load_data


class Digits(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = digits_net()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()

    torch.manual_seed(0)
    data = load_data("digits")
    images, labels = data.train()
    loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)
    steps = options.epochs * len(loader)

    def make_pruner(module: Digits) -> fg.Pruner:
        schedule = fg.Cubic(begin=0, end=max(1, int(0.6 * steps)), every=10)
        return fg.Pruner(module.net, fg.Groups("4x1", unaligned="rows"), sparsity=0.9, schedule=schedule)

    module = Digits()
    pruning = PruningCallback(make_pruner)
    averaging = EMAWeightAveraging(decay=0.95, use_buffers=False)  # after the pruning, and not of its masks
    trainer = lightning.Trainer(
        max_epochs=options.epochs, callbacks=[pruning, averaging], logger=False, enable_checkpointing=False
    )
    trainer.fit(module, loader)

    # The module is plain again, with zeros: save_checkpoint() and fg.compile(module.net, ...) work as ever.
    test_images, test_labels = data.test()
    with torch.no_grad():
        right = (module.net.cpu().eval()(test_images).argmax(1) == test_labels).float().mean()
    print(f"{pruning.pruner.sparsity:.1%} of the targeted weights are zero; {right:.1%} of the test images are right")


if __name__ == "__main__":
    main()
