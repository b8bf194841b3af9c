from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backdrop.common.storage import sha256
from backdrop.config import EarlyExit, Ensemble, ExitRule
from backdrop.config.ensemble import Part
from backdrop.config.folds import Rule
from backdrop.config.postprocessing import BestMembers, Threshold
from backdrop.data.dataset import open_dataset, read_image, read_pair
from backdrop.data.folds import make_plan, verify
from backdrop.data.masks import Mask, dice
from backdrop.data.photographs import Source
from backdrop.evaluation.scoring import score_holdout
from backdrop.inference import batch, ensemble
from backdrop.inference.batch import Cutout
from backdrop.inference.ensemble import EnsembleModel, Outcome, gather, load_ensemble, write_ensemble
from backdrop.inference.member import read_member
from backdrop.inference.uncertainty import unconfidence
from tests.conftest import SMALL, draw_pair

NEVER, ALWAYS = 1e9, 0.0  # unconfidence above which photographs go on
# Trained as long as it takes until photographs differ in their doubt.
TINY = (*SMALL, "epochs=12")
WIDE = (*TINY, "name=wide", "network.width=6", "input.size=32x32")


@pytest.fixture(scope="module")
def model(trained_once: Callable[[int, tuple[str, ...]], str]) -> EnsembleModel:
    """Two members of one recipe, and one of another."""
    members = [read_member(Path(trained_once(*which))) for which in ((0, TINY), (1, TINY), (0, WIDE))]
    return batch.keep_networks(replace(gather(members, None), recipe_weights={"tiny": 0.3, "wide": 1.0}))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Source]:
    """Eleven photographs: two fours and a rest."""
    folder = tmp_path_factory.mktemp("photos")
    for index in range(11):
        draw_pair(folder, f"car{index:02d}_01", index, (48, 64) if index % 3 else (40, 72))
    return [Source(path, path.name) for path in sorted((folder / "train").iterdir())]


def exiting(model: EnsembleModel, limit: float, first: tuple[str, ...] = ("tiny",)) -> EnsembleModel:
    return replace(model, early_exit=ExitRule(first=first, unconfidence_above=limit))


def only(model: EnsembleModel, recipe: str) -> EnsembleModel:
    return replace(model, members=tuple(member for member in model.members if member.record.recipe == recipe))


def probabilities(model: EnsembleModel, photos: list[Source]) -> list[np.ndarray]:
    outcomes = model.outcomes([model.prepare(read_image(photo.path)) for photo in photos], with_probability=True)
    return [outcome.probability for outcome in outcomes if outcome.probability is not None]


def test_networks_that_see_a_photograph_first_stay_in_memory_first(
    model: EnsembleModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = exiting(gather([read_member(member.folder) for member in model.members], None), NEVER, ("wide",))
    (wide,) = (member for member in opened.members if member.record.recipe == "wide")
    monkeypatch.setattr(batch, "MAX_CACHED", (wide.folder / "weights.safetensors").stat().st_size)
    kept = batch.keep_networks(opened)
    assert [member.name for member in kept.members] == [member.name for member in opened.members]
    assert [member.name for member in kept.members if member.is_in_memory] == [wide.name]
    assert kept.digest() == opened.digest()


def doubts(model: EnsembleModel, photos: list[Source], first: str = "tiny") -> list[float]:
    """Each photograph's pooled unconfidence: of all pixels of all first members' own probabilities together."""
    alone = [probabilities(replace(model, members=(one,)), photos) for one in only(model, first).members]
    return [unconfidence(np.stack(each)) for each in zip(*alone, strict=True)]


def digest(source: Source, outcome: Outcome, mask: Mask) -> Cutout:
    assert outcome.probability is not None
    return Cutout(image=source.name, digest=sha256(outcome.probability.tobytes() + mask.tobytes()))


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    """Whether photographs have the same probabilities to the last bit."""
    return all(one.tobytes() == other.tobytes() for one, other in zip(left, right, strict=True))


def test_the_first_members_decide_alone_if_there_is_never_a_doubt(model: EnsembleModel, photos: list[Source]) -> None:
    assert same(probabilities(exiting(model, NEVER), photos), probabilities(only(model, "tiny"), photos))


def test_all_members_decide_if_there_is_always_a_doubt(model: EnsembleModel, photos: list[Source]) -> None:
    assert same(probabilities(exiting(model, ALWAYS), photos), probabilities(model, photos))


@settings(max_examples=8)
@given(place=st.integers(0, 10), first=st.sampled_from(["tiny", "wide"]))
def test_doubtful_photographs_of_four_are_a_batch(
    model: EnsembleModel, photos: list[Source], place: int, first: str
) -> None:
    early = probabilities(only(model, first), photos)
    known = doubts(model, photos, first)
    limit = sorted(known)[place]
    given = probabilities(exiting(model, limit, (first,)), photos)
    for start in range(0, len(photos), 4):
        four = photos[start : start + 4]
        doubtful = [photo for photo, doubt in zip(four, known[start:], strict=False) if doubt > limit]
        late = dict(zip([photo.name for photo in doubtful], doubtful and probabilities(model, doubtful), strict=True))
        for photo, alone, result in zip(four, early[start:], given[start:], strict=False):
            if photo.name in late:
                assert np.allclose(result, late[photo.name], atol=1e-5)
            else:
                assert result.tobytes() == alone.tobytes()
        assert same(probabilities(exiting(model, limit, (first,)), four), given[start : start + 4])


def test_shares_and_chunks_of_any_size_give_the_bytes_of_one_run(
    model: EnsembleModel, photos: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    early = exiting(model, float(np.median(doubts(model, photos))))

    def run(model: EnsembleModel, photos: list[Source]) -> list[Cutout]:
        return batch.cut_out(model, photos, digest)

    whole = run(early, photos)
    assert [*run(early, photos[:4]), *run(early, photos[4:])] == whole
    monkeypatch.setattr(batch, "PIXELS", 4 * 48 * 72)
    assert run(early, photos) == whole
    assert whole not in (run(model, photos), run(only(model, "tiny"), photos))


def test_masks_do_not_depend_on_how_many_networks_memory_holds(
    model: EnsembleModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, values in {"PIXELS": 32_000, "LARGE": 8_000}.items():
        monkeypatch.setattr(batch, name, values)
    monkeypatch.setattr(ensemble, "BLOCK", 8_000)
    for index, size in enumerate([(40, 56)] * 4 + [(80, 112)] + [(40, 56)] * 3):  # the fifth is summed in parts
        draw_pair(tmp_path, f"car{index}_01", index, size)
    photos = [Source(path, path.name) for path in sorted((tmp_path / "train").iterdir())]
    kept, loaded = (
        exiting(model, NEVER),
        exiting(gather([read_member(one.folder) for one in model.members], None), NEVER),
    )
    loaded = replace(loaded, recipe_weights=model.recipe_weights)
    assert batch.cut_out(loaded, photos, digest) == batch.cut_out(kept, photos, digest)


def test_the_others_are_not_even_loaded_without_a_doubt(
    model: EnsembleModel, photos: list[Source], tmp_path: Path
) -> None:
    config = Ensemble(
        name="small",
        members=(*(Part(recipe=model.members[index].recipe) for index in (0, 2)),),
        early_exit=EarlyExit(max_loss=0.1, rule=ExitRule(first=("tiny",), unconfidence_above=NEVER)),
    )
    write_ensemble(tmp_path, config, model.members)
    loaded = load_ensemble(tmp_path)
    assert loaded.early_exit == ExitRule(first=("tiny",), unconfidence_above=NEVER)
    (tmp_path / "members" / "wide-0" / "weights.safetensors").unlink()
    assert same(probabilities(loaded, photos), probabilities(only(model, "tiny"), photos))


def test_all_members_see_a_photograph_that_is_summed_in_parts(
    model: EnsembleModel, photos: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "BLOCK", 1000)
    assert same(probabilities(exiting(model, NEVER), photos[:1]), probabilities(model, photos[:1]))


def test_best_members_are_the_mean_of_all_of_them(model: EnsembleModel, photos: list[Source]) -> None:
    best = BestMembers(kind="best_members", unconfidence_above=0, recipes={"01": ("wide",)})
    image = read_image(photos[0].path)
    early = exiting(replace(model, operations=(best,)), NEVER)
    assert (early.mask(image, "01") == only(model, "wide").mask(image)).all()
    assert (early.mask(image, "02") == only(model, "tiny").mask(image)).all()
    missing = best.model_copy(update={"recipes": {"01": ("unet11",)}})
    assert (replace(early, operations=(missing,)).mask(image, "01") == model.mask(image)).all()


def test_without_members_that_are_first_all_decide(model: EnsembleModel, photos: list[Source]) -> None:
    rest = only(model, "wide")
    assert same(probabilities(exiting(rest, NEVER), photos), probabilities(rest, photos))


def test_the_rule_is_a_part_of_the_ensemble(model: EnsembleModel) -> None:
    digests = {exiting(model, limit).digest() for limit in (0.1, 0.2, 0.1)} | {model.digest()}
    digests.add(exiting(model, 0.1, ("wide",)).digest())
    assert len(digests) == 4
    assert gather(model.members, None).early_exit is None


def test_the_gate_judges_the_masks_that_are_predicted(
    model: EnsembleModel, photos: list[Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(photos[0].path.parent.parent)
    plan = make_plan(dataset, Rule(2, 0.8, "area", 0))
    digests = verify(plan, dataset)
    held = [Source(dataset.photos[row.image].image, row.image) for row in plan.holdout]
    low = replace(model, operations=(Threshold(kind="threshold", level=0.4),))
    early = exiting(low, float(np.median(doubts(model, held))))

    def scores(model: EnsembleModel) -> list[float]:
        return [score.dice for score in score_holdout(dataset, plan, digests, model)]

    def dices(model: EnsembleModel) -> list[float]:
        pairs = [read_pair(dataset.photos[row.image], digests) for row in plan.holdout]
        return [dice(model.mask(image), truth) for image, truth in pairs]

    assert scores(early) == pytest.approx(dices(early), abs=1e-4)
    assert scores(early) not in (scores(low), scores(only(low, "tiny")))
    monkeypatch.setattr(ensemble, "BLOCK", 1000)
    monkeypatch.setattr(batch, "LARGE", 1000)
    assert scores(early) == scores(low) == pytest.approx(dices(early), abs=1e-4)
