"""Each operation on a mask, against slow loops that know nothing of OpenCV."""

import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydantic import TypeAdapter

from backdrop.common.errors import ConfigError
from backdrop.config.postprocessing import (
    BestMembers,
    DropSmall,
    FillHoles,
    Hull,
    Operation,
    Operations,
    Threshold,
    UnreliableTop,
)
from backdrop.config.records import Record, parse
from backdrop.data.dataset import open_dataset, read_mask
from backdrop.data.masks import dice
from backdrop.inference.postprocessing import apply, choose_recipes, repair

FOLDER = os.environ.get("BACKDROP_CARVANA")


def scattered(height: int, width: int, density: float, seed: int) -> np.ndarray:
    """Random pixels: hypothesis' own arrays are nearly all alike, and have few pieces."""
    return np.random.default_rng(seed).random((height, width)) < density


SIDES, SEEDS = st.integers(1, 12), st.integers(0, 10**6)
MASKS = st.builds(scattered, SIDES, SIDES, st.floats(0.1, 0.9), SEEDS)
MAPS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.sampled_from([0.0, 0.2, 0.35, 0.5, float(np.nextafter(np.float32(0.5), 1)), 0.75, 1.0]).map(
        lambda p: float(np.float32(p))
    ),
)
SHARES = st.floats(0, 1)
NEIGHBORS = {
    4: [(-1, 0), (1, 0), (0, -1), (0, 1)],
    8: [step for step in product((-1, 0, 1), repeat=2) if any(step)],
}

Pixel = tuple[int, int]


def fill_holes(share: float) -> FillHoles:
    return FillHoles(kind="fill_holes", max_area=share)


def drop_small(share: float) -> DropSmall:
    return DropSmall(kind="drop_small", min_area=share)


def sure(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 0.95, 0.05).astype(np.float32)


def pieces(mask: np.ndarray, neighbors: int) -> list[set[Pixel]]:
    """The connected pieces of a mask, by filling one after another from any of its pixels."""
    left = {(y, x) for y, row in enumerate(mask.tolist()) for x, inside in enumerate(row) if inside}
    components = []
    while left:
        piece, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            piece.add((y, x))
            for dy, dx in NEIGHBORS[neighbors]:
                if (y + dy, x + dx) in left:
                    left.remove((y + dy, x + dx))
                    border.append((y + dy, x + dx))
        components.append(piece)
    return components


def drawn(shape: tuple[int, ...], piece: set[Pixel]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for pixel in piece:
        mask[pixel] = True
    return mask


def hull(points: np.ndarray) -> np.ndarray:
    """Pixels on no outer side of any line that has all points on one side, within the points' own box."""
    ys, xs = np.nonzero(points)
    at = list(zip(ys.tolist(), xs.tolist(), strict=True))
    y, x = np.mgrid[: points.shape[0], : points.shape[1]]
    inside = (y >= ys.min()) & (y <= ys.max()) & (x >= xs.min()) & (x <= xs.max())
    for (ay, ax), (by, bx) in product(at, at):
        if ((bx - ax) * (ys - ay) - (by - ay) * (xs - ax) >= 0).all():
            inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    return inside


def outline(mask: np.ndarray) -> np.ndarray:
    """First and last pixel of every row: their hull is the mask's."""
    kept = np.zeros_like(mask)
    for y, row in enumerate(mask.tolist()):
        xs = [x for x, inside in enumerate(row) if inside]
        for x in xs[:1] + xs[-1:]:
            kept[y, x] = True
    return kept


@given(MAPS)
def test_without_operations_the_mask_is_above_one_half(probability: np.ndarray) -> None:
    before = probability.copy()
    repaired = apply(probability, ())
    assert repaired.dtype == bool
    assert repaired.tolist() == [[p > 0.5 for p in row] for row in probability.tolist()]
    assert (probability == before).all()


@given(MAPS, st.sampled_from([0.2, 0.35, 0.75]))
def test_a_threshold_is_another_level(probability: np.ndarray, level: float) -> None:
    expected = [[p > float(np.float32(level)) for p in row] for row in probability.tolist()]
    assert apply(probability, [Threshold(kind="threshold", level=level)]).tolist() == expected


@given(MASKS, st.integers(0, 30))
def test_enclosed_holes_are_filled_up_to_a_size(mask: np.ndarray, most: int) -> None:
    expected = mask.copy()
    last = (mask.shape[0] - 1, mask.shape[1] - 1)
    for hole in pieces(~mask, 4):
        at_border = any(0 in pixel or pixel[0] == last[0] or pixel[1] == last[1] for pixel in hole)
        if not at_border and len(hole) <= most:
            expected |= drawn(mask.shape, hole)
    share = min(1.0, (most + 0.5) / mask.size)
    assert (apply(sure(mask), [fill_holes(share)]) == expected).all()


@given(MASKS, st.integers(1, 30))
def test_pieces_below_a_size_are_dropped_but_not_the_largest(mask: np.ndarray, least: int) -> None:
    labeled = pieces(mask, 8)
    largest = max(map(len, labeled), default=0)
    expected = np.zeros_like(mask)
    for piece in labeled:
        if len(piece) >= least or len(piece) == largest:
            expected |= drawn(mask.shape, piece)
    share = min(1.0, (least - 0.5) / mask.size)
    assert (apply(sure(mask), [drop_small(share)]) == expected).all()


def test_sizes_are_of_the_whole_photograph_and_include_their_limit() -> None:
    mask = np.zeros((16, 16), bool)
    mask[2:14, 2:14] = True
    mask[4:6, 4:6] = False  # 4 pixels of 256
    assert apply(sure(mask), [fill_holes(4 / 256)])[4:6, 4:6].all()
    assert not apply(sure(mask), [fill_holes(3.99 / 256)])[4:6, 4:6].any()
    mask[0, :4] = True
    assert apply(sure(mask), [drop_small(4 / 256)])[0, :4].all()
    assert not apply(sure(mask), [drop_small(4.01 / 256)])[0, :4].any()


def region(shape: tuple[int, int] = (14, 17)) -> np.ndarray:
    """Sure background with a region of doubt that is below one half."""
    probability = np.full(shape, 0.1, np.float32)
    probability[1:-1, 2:-1] = 0.4
    return probability


@given(st.builds(scattered, st.just(9), st.just(11), st.floats(0.2, 0.9), SEEDS))
def test_a_region_of_doubt_becomes_its_hull(spots: np.ndarray) -> None:
    if not spots.any():
        return
    probability, blob = region(), drawn(spots.shape, max(pieces(spots, 8), key=len))
    probability[2:11, 4:15][blob] = 0.6
    expected = np.zeros_like(probability, bool)
    expected[2:11, 4:15] = hull(outline(blob))
    assert (apply(probability, [Hull(kind="hull", strip=0, min_area=0)]) == expected).all()


def test_a_hull_only_adds_and_only_from_its_own_region() -> None:
    probability = np.full((20, 20), 0.1, np.float32)
    probability[2:12, 2] = probability[11, 2:12] = 0.6  # an L; in its box, apart from it,
    probability[3:5, 10:12] = 0.6  # another region, which is its own hull,
    probability[2, 6:8] = 0.95  # and what is sure
    points = np.zeros_like(probability, bool)
    points[2:12, 2] = points[11, 2:12] = True
    expected = hull(points) | (probability > 0.5)
    assert (apply(probability, [Hull(kind="hull", strip=0, min_area=0)]) == expected).all()


def test_the_largest_piece_is_the_one_that_encloses_most() -> None:
    probability = np.full((30, 30), 0.4, np.float32)
    probability[2, 2:28] = 0.6  # long, but thin
    probability[10:18, 10:18] = 0.6
    probability[13, 14] = 0.4
    expected = probability > 0.5
    expected[13, 14] = True
    assert (apply(probability, [Hull(kind="hull", strip=0, min_area=0)]) == expected).all()


def test_a_lower_level_takes_more_of_the_region_in() -> None:
    probability = region()
    whole = probability == np.float32(0.4)
    assert not apply(probability, [Hull(kind="hull", strip=0)]).any()
    assert (apply(probability, [Hull(kind="hull", strip=0, level=0.35)]) == whole).all()
    probability[3:9, 5:9] = 0.1  # a hole in the doubt is in its hull
    assert (apply(probability, [Hull(kind="hull", strip=0, level=0.35)]) == whole).all()


def test_only_regions_with_enough_pixels_get_a_hull() -> None:
    probability = np.full((20, 20), 0.05, np.float32)
    probability[2:6, 2:6] = 0.6
    probability[3, 3:5] = 0.31  # a dent in one region's middle,
    probability[10:13, 10:12] = [[0.6, 0.6], [0.6, 0.31], [0.6, 0.6]]  # and in a smaller one's side
    both = apply(probability, [Hull(kind="hull", strip=0, min_area=6 / 400)])
    one = apply(probability, [Hull(kind="hull", strip=0, min_area=6.01 / 400)])
    assert both[2:6, 2:6].all()
    assert both[10:13, 10:12].all()
    assert one[2:6, 2:6].all()
    assert not one[11, 11]


def test_the_blur_along_an_outline_is_no_region() -> None:
    y, x = np.mgrid[:256, :256]
    away = np.hypot(y - 128, x - 128) - 60
    probability = np.clip(0.5 - away / 6, 0, 1).astype(np.float32)  # doubt is 3 pixels wide, of 256
    probability[100:156, 128:] = 0.02  # a bay, which a hull would fill
    plain = probability > 0.5
    assert (apply(probability, [Hull(kind="hull", strip=2 / 256, min_area=0)]) == plain).all()
    assert (apply(probability, [Hull(kind="hull", strip=0, min_area=0)]) != plain).any()


HEIGHT, WIDTH = 256, 384  # the winners' pixels are a fifth here: strip 1, margin 10, least 1601
AREA = 40_000 / (1918 * 1280) * HEIGHT * WIDTH
TOP = UnreliableTop(kind="unreliable_top")


def van(top: int, height: int, width: int, left: int = 100) -> np.ndarray:
    """A sure body on sure ground, and on it a roof in doubt of so many rows and columns."""
    probability = np.full((HEIGHT, WIDTH), 0.01, np.float32)
    probability[top + height : 230, left : left + width] = 0.99
    probability[top : top + height, left : left + width] = 0.3
    return probability


def test_a_roof_in_doubt_becomes_the_hull_of_what_is_above_a_low_level() -> None:
    probability = van(30, 60, 60)
    roof = probability[30:90, 100:160]
    roof[np.random.default_rng(1).random(roof.shape) < 0.3] = 0.13  # in doubt still, but below the level
    probability[:20, :20] = 0.99  # far from the box
    probability[60:70, 165:168] = 0.9  # in the box, but not in the largest piece
    box = np.s_[21:99, 90:170]  # one row of each end of the roof is stripped, then ten are added to each side
    expected = probability > 0.5
    levels = probability[box] > np.float32(55 / 255)
    expected[box] = hull(outline(drawn(levels.shape, max(pieces(levels, 8), key=len))))
    repaired = apply(probability, [TOP])
    assert (repaired == expected).all()
    assert repaired[30:90, 100:160].mean() > 0.95
    assert not repaired[60:70, 165:168].any()


@pytest.mark.parametrize("top", [0, 1, 4, 9, 10, 11, 12])
@pytest.mark.parametrize("left", [0, 3, 11, WIDTH - 60])
def test_the_box_ends_where_the_photograph_does(top: int, left: int) -> None:
    probability = van(top, 70, 60, left)
    repaired = apply(probability, [TOP])
    expected = probability > 0.2  # roof and body make one rectangle, the hull of itself
    assert (repaired == expected).all()
    assert repaired[top : top + 70, left : left + 60].all()


@pytest.mark.parametrize(("height", "width", "repaired"), [(43, 42, True), (43, 41, False)])
def test_only_a_large_roof_is_repaired(height: int, width: int, repaired: bool) -> None:
    # A row is stripped at both ends, and a contour through pixel centers encloses one less each way.
    assert ((height - 3) * (width - 1) > AREA) == repaired
    probability = van(20, height, width)
    assert apply(probability, [TOP])[20 : 20 + height].any() == repaired


def test_the_limit_itself_is_too_small() -> None:
    probability = van(20, 43, 41)
    least = 40 * 40 / (HEIGHT * WIDTH)
    assert not apply(probability, [TOP.model_copy(update={"min_area": least})])[20:63].any()
    assert apply(probability, [TOP.model_copy(update={"min_area": least * 0.999})])[20:63].any()


def test_doubt_at_the_upper_border_is_not_stripped_there() -> None:
    least = 42 * 49 / (HEIGHT * WIDTH)
    operation = TOP.model_copy(update={"min_area": least * 0.999})
    assert apply(van(0, 44, 50), [operation])[:44].any()
    assert not apply(van(1, 44, 50), [operation])[:45].any()


def test_thin_doubt_is_stripped_away() -> None:
    probability = van(20, 2, 380, 2)
    assert not apply(probability, [TOP.model_copy(update={"min_area": 0.0})])[20:22].any()


def test_doubt_in_the_lower_half_is_left_alone() -> None:
    probability = van(20, 60, 60)[::-1].copy()
    assert (apply(probability, [TOP]) == (probability > 0.5)).all()


def test_only_the_upper_half_of_a_region_counts() -> None:
    probability = np.full((HEIGHT, WIDTH), 0.01, np.float32)
    probability[108:208, 100:160] = 0.3  # 100 rows in doubt, of which 19 are in the upper half: 18 * 59 is too little
    assert not apply(probability, [TOP]).any()


def test_a_roof_that_stays_below_the_level_is_left_as_it_was() -> None:
    probability = np.full((HEIGHT, WIDTH), 0.01, np.float32)
    probability[20:90, 100:200] = 0.15
    probability[200:230, 100:200] = 0.99
    assert (apply(probability, [TOP]) == (probability > 0.5)).all()


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["fill_holes", "drop_small", "hull", "unreliable_top"])
def test_nothing_and_everything_stay_as_they_are(p: float, kind: str) -> None:
    operation = TypeAdapter(Operation).validate_python({"kind": kind})
    assert (apply(np.full((8, 9), p, np.float32), [operation]) == (p > 0.5)).all()


def test_operations_follow_one_another() -> None:
    mask = np.zeros((10, 10), bool)
    mask[2:7, 2:7] = True
    mask[4, 4] = False
    mask[9, 9] = True
    repaired = apply(sure(mask), [fill_holes(0.01), drop_small(0.05)])
    assert repaired[4, 4]
    assert not repaired[9, 9]
    assert (apply(sure(mask) * np.float32(0.5), [Threshold(kind="threshold", level=0.4), fill_holes(0.01)])[4, 4]).all()


def test_the_winners_sizes_are_theirs_at_their_photographs_size() -> None:
    area = 1918 * 1280
    assert (TOP.strip * 1280, TOP.margin * 1280, TOP.min_area * area) == pytest.approx((5, 50, 40_000))
    assert (TOP.low * 255, TOP.high * 255, TOP.level * 255) == pytest.approx((30, 210, 55))
    assert int(FillHoles(kind="fill_holes").max_area * area) == int(DropSmall(kind="drop_small").min_area * area) == 122


# --- Best members -----------------------------------------------------------------------------------------------------

BEST = BestMembers(kind="best_members", unconfidence_above=0.5, recipes={"01": ("a", "c")})


def doubtful_by(count: int) -> np.ndarray:
    """Unconfidence is a fourth for each doubtful pixel."""
    return np.array([[0.5] * count + [0.0] * 4], np.float32)


@pytest.mark.parametrize(
    ("count", "view", "names"), [(2, "01", ()), (3, "01", ("a", "c")), (3, "02", ()), (0, "01", ())]
)
def test_the_best_answer_only_for_a_doubtful_photograph_of_a_view_they_are_known_for(
    count: int, view: str, names: tuple[str, ...]
) -> None:
    assert choose_recipes(doubtful_by(count), view, [BEST, Threshold(kind="threshold")]) == names


def test_the_limit_may_go_by_another_interval() -> None:
    narrow = BEST.model_copy(update={"low": 0.6})
    assert choose_recipes(doubtful_by(3), "01", [narrow]) == ()
    assert choose_recipes(doubtful_by(3), "01", []) == ()


def test_a_photograph_is_repaired_from_the_mean_of_the_best_and_only_then() -> None:
    asked = []

    def mean_of(names: tuple[str, ...]) -> np.ndarray:
        asked.append(names)
        return np.full((1, 7), 0.45, np.float32)

    operations = [BEST, Threshold(kind="threshold", level=0.4)]
    assert repair(doubtful_by(3), "01", operations, mean_of).all()
    assert asked == [("a", "c")]
    assert repair(doubtful_by(3), "02", operations, mean_of).tolist() == [[True] * 3 + [False] * 4]
    assert len(asked) == 1


# --- Words ------------------------------------------------------------------------------------------------------------

INTERVAL = st.tuples(SHARES, SHARES).filter(lambda pair: pair[0] != pair[1]).map(sorted)
NAMES = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=3).map(tuple)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Operation, ...]:
    """Operations in an order that they can have."""

    def interval() -> dict[str, float]:
        return dict(zip(("low", "high"), draw(INTERVAL), strict=True))

    recipes = st.dictionaries(st.text(max_size=3), NAMES, min_size=1, max_size=3)
    best = st.builds(
        lambda above, table: BestMembers(kind="best_members", unconfidence_above=above, recipes=table, **interval()),
        st.floats(0, 10),
        recipes,
    )
    threshold = st.builds(lambda level: Threshold(kind="threshold", level=level), SHARES)
    others = st.one_of(
        SHARES.map(fill_holes),
        SHARES.map(drop_small),
        SHARES.map(lambda share: Hull(kind="hull", min_area=share, **interval())),
        SHARES.map(lambda share: UnreliableTop(kind="unreliable_top", margin=share, **interval())),
    )
    first = [*draw(st.lists(best, max_size=1)), *draw(st.lists(threshold, max_size=1))]
    return (*first, *draw(st.lists(others, max_size=4)))


@given(chains())
def test_operations_survive_json(chain: tuple[Operation, ...]) -> None:
    words: TypeAdapter[tuple[Operation, ...]] = TypeAdapter(Operations)
    text = words.dump_json(chain)
    assert words.validate_json(text) == chain
    assert words.dump_json(words.validate_json(text)) == text


class Somewhere(Record):
    """Any record that holds operations."""

    postprocessing: Operations = ()


TABLE: dict[str, Any] = {"kind": "best_members", "unconfidence_above": 1, "recipes": {"01": ["a"]}}


@pytest.mark.parametrize(
    ("operations", "fault"),
    [
        ([{"kind": "threshold"}, TABLE], "best_members must come first"),
        ([{"kind": "fill_holes"}, {"kind": "threshold"}], "best_members must come first, then threshold"),
        ([{"kind": "threshold"}, {"kind": "threshold"}], "at most once"),
        ([TABLE, TABLE], "at most once"),
        ([{"kind": "hull", "low": 0.8, "high": 0.3}], r"low \(0.8\) is not below high \(0.3\)"),
        ([TABLE | {"low": 0.8}], r"low \(0.8\) is not below high \(0.8\)"),
        (
            [{"kind": "fill_holes", "min_area": 0.1}],
            "unknown key postprocessing.0.min_area. Did you mean max_area",
        ),
        ([{"kind": "drop_small", "min_area": 1.1}], "min_area can't be 1.1. Write at most 1.0"),
        ([{"kind": "smooth"}], "smooth"),
        ([TABLE | {"recipes": {}}], "List at least 1"),
        ([TABLE | {"recipes": {"01": []}}], "List at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(operations: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s)mine.yaml.*{fault}"):
        parse(Somewhere, {"postprocessing": operations}, "mine.yaml")


# --- Real masks -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not FOLDER, reason="BACKDROP_CARVANA names no folder of real photographs")
@pytest.mark.parametrize(
    "operation", [FillHoles(kind="fill_holes"), DropSmall(kind="drop_small")], ids=lambda o: o.kind
)
@pytest.mark.parametrize(("folder", "every"), [("squashed-512", 8), ("full", 8)])
def test_true_masks_lose_next_to_nothing(folder: str, every: int, operation: Operation) -> None:
    lost = []
    for photo in list(open_dataset(Path(str(FOLDER)) / folder).photos.values())[::every]:
        assert photo.mask is not None
        mask = read_mask(photo.mask)
        lost.append(1 - dice(apply(sure(mask), [operation]), mask))
    assert max(lost) < 1e-3
    assert np.mean(lost) < 1e-4
