"""Prune in Hugging Face's Trainer: one callback more.

    python examples/huggingface_trainer.py [--epochs 6]

Needs pip install "flexgroup[transformers,demo]": the digits come with scikit-learn, nothing else is downloaded.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import flexgroup as fg
from flexgroup.integrations.transformers import PruningCallback
from flexgroup.zoo import load_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()

    torch.manual_seed(0)
    data = load_data("digits")
    images, labels = data.train()
    samples = [{"pixel_values": image, "labels": label} for image, label in zip(images, labels, strict=True)]
    _, channels, size, _ = images.shape
    config = ViTConfig(
        image_size=size,
        patch_size=size // 4,
        num_channels=channels,
        num_labels=10,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
    )
    batch = 64
    steps = options.epochs * -(-len(samples) // batch)

    def make_pruner(model: torch.nn.Module) -> fg.Pruner:
        schedule = fg.Cubic(begin=0, end=max(1, int(0.6 * steps)), every=10)
        return fg.Pruner(model, fg.Groups("4x1", unaligned="rows"), sparsity=0.8, schedule=schedule)

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=batch,
            learning_rate=2e-3,
            save_strategy="no",
            report_to=[],
        )
        callback = PruningCallback(make_pruner)
        trainer = Trainer(ViTForImageClassification(config), arguments, train_dataset=samples, callbacks=[callback])
        trainer.train()

    # The model is plain again, with zeros: trainer.save_model() and from_pretrained() work as ever.
    test_images, test_labels = data.test()
    model = trainer.model.cpu().eval()
    with torch.no_grad():
        right = (model(pixel_values=test_images).logits.argmax(1) == test_labels).float().mean()
    print(f"{callback.pruner.sparsity:.1%} of the targeted weights are zero; {right:.1%} of the test images are right")


if __name__ == "__main__":
    main()
