"""The faithful recipes' numbers, as they were computed before their switches of 2017 moved under `legacy:`."""

import numpy as np
import pytest
import torch

from backdrop.augmentation import device, host
from backdrop.config import Recipe, find_recipe, shipped
from backdrop.config.legacy import Legacy
from backdrop.inference.predict import predict_all
from backdrop.training.distributed import ALONE
from backdrop.training.losses import make_loss
from backdrop.training.state import begin
from backdrop.training.step import Batch, set_lr
from backdrop.training.trainer import first_network, take_step

# Few channels; the losses of three steps, the mean square of a prediction after them, and how many pixels of six
# augmented masks are neither 0 nor 255, on the host and on the device.
NUMBERS = {
    "linknet34-faithful": (
        ("network.width=8", "input.size=64x64"),
        *((1.35483, 1.35107, 1.34682), 0.201550, (626, 555)),
    ),
    "unet11-faithful": (
        ("network.width=2", "network.encoder_width=2", "input.size=64x64"),
        *((1.94374, 1.93790, 1.93114), 0.280448, (0, 0)),
    ),
    "unet-scratch-faithful": (
        ("network.width=2", "input.size=128x128"),
        *((1.58060, 1.57565, 1.57036), 0.318168, (0, 0)),
    ),
    "unet-vgg11-faithful": (
        ("network.width=2", "network.encoder_width=2", "input.size=64x64"),
        *((1.39314, 1.38632, 1.37827), 0.294805, (0, 0)),
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_faithful_recipe_computes_what_it_always_did(name: str) -> None:
    settings, losses, square, soft = NUMBERS[name]
    recipe = find_recipe(name, ["pretrained=null", "compute.precision=fp32", *settings])
    random = np.random.default_rng(7)
    found, network = _train(recipe, random)
    assert found == pytest.approx(losses, rel=1e-4)
    photo = (random.random((70, 60, 3)) * 255).astype(np.uint8)
    photo = photo if recipe.input.fit == "stretch" else photo[:60]
    (probability,) = predict_all(network, [photo], recipe.input, recipe.tta, recipe.legacy.output_align_corners)
    assert float(probability.double().square().mean()) == pytest.approx(square, rel=1e-3)
    assert _soft_pixels(recipe, random) == pytest.approx(soft, rel=0.05)


def _train(recipe: Recipe, random: np.random.Generator) -> tuple[list[float], torch.nn.Module]:
    """Three small steps of a float64 network: a step multiplies rounding errors, and processors round differently."""
    network = first_network(recipe).double()
    state, loss = begin(recipe, None, network, "key", ALONE), make_loss(**recipe.loss_options())
    images = torch.from_numpy(random.random((2, 3, recipe.input.height, recipe.input.width), dtype=np.float32)).double()
    masks = torch.zeros_like(images[:, :1])
    masks[:, :, 10:40, 20:50] = 1
    set_lr(state.optimizer, 0.005)
    batches = [Batch(images[i : i + 1], masks[i : i + 1]) for i in range(2)]
    return [float(take_step(recipe, loss, state, batches)) for _ in range(3)], network.float().eval()


def _soft_pixels(recipe: Recipe, random: np.random.Generator) -> list[int]:
    mask = np.zeros((64, 64), np.uint8)
    mask[10:40, 20:50] = 255
    image = (random.random((64, 64, 3)) * 255).astype(np.uint8)
    here = host.Augmenter(recipe.augmentation, recipe.seed, recipe.legacy.hard_masks)
    there = device.Augmenter(recipe.augmentation, recipe.seed, recipe.legacy.hard_masks)
    masks = [
        (here(image, mask, e, 3)[1], there(torch.tensor(image), torch.tensor(mask), e, 3)[1].numpy()) for e in range(6)
    ]
    return [int(sum((one % 255 > 0).sum() for one in side)) for side in zip(*masks, strict=True)]


def test_only_faithful_recipes_are_legacy() -> None:
    legacy = {name for name in shipped("recipes") if find_recipe(name).legacy != Legacy()}
    assert legacy == set(NUMBERS)
    used = [find_recipe(name).legacy.model_dump(exclude_defaults=True) for name in NUMBERS]
    assert {key for one in used for key in one} == set(Legacy.model_fields), "a switch that no recipe uses"
