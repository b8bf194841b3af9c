"""The report's sections of pictures; all pictures together share the bytes that the page has left."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from backdrop.evaluation.examples import Difference, Doubtful, Example
from backdrop.evaluation.pictures import Image, data_uri
from backdrop.evaluation.records import Score
from backdrop.report.parts import dice_text
from backdrop.report.review import region_text

PICTURE_BYTES = 90_000  # limit of one picture
LEGEND = (
    '<p class="note"><span class="key missing"></span>missing: in the true mask, but not predicted '
    '<span class="key surplus"></span>surplus: predicted, but not in the true mask. The frame marks the close-up.</p>'
)
DIFFERENCES_NOTE = (
    '<p class="note"><span class="key true"></span>true outline <span class="key missing"></span>champion\'s '
    '<span class="key surplus"></span>this ensemble\'s, where the two differ most. The frame marks the close-up.</p>'
)
DOUBTS_NOTE = (
    '<p class="note"><span class="key missing"></span>label <span class="key surplus"></span>ensemble. Of the images '
    "that are shown here as worst, those where members that did not train on the label are sure of the opposite.</p>"
)


@dataclass(frozen=True)
class Gallery:
    """Everything that is shown as pictures.

    `worst` and `typical` images have panels of their errors, `doubts` may have a wrong label, and on `differences` the
    champion's Dice is another. `review` is the command that shows all doubtful labels.
    """

    worst: Sequence[Example] = ()
    typical: Sequence[Example] = ()
    doubts: Sequence[Doubtful] = ()
    differences: Sequence[Difference] = ()
    review: str = ""

    def sections(self, room: int) -> dict[str, str]:
        """Each section's HTML by its name in `page.html`, empty without pictures; `room` is their limit in bytes."""
        pictures = len(self.worst) + len(self.typical) + len(self.doubts) + len(self.differences)
        limit = min(PICTURE_BYTES, room // max(1, pictures))
        groups = {
            "Worst holdout images": [one for one in self.worst if one.score.fold is None],
            "Worst out-of-fold images": [one for one in self.worst if one.score.fold is not None],
        }
        worst = [_section(title, LEGEND, [_example(one, limit) for one in group]) for title, group in groups.items()]
        place = "holdout" if any(one.score.fold is None for one in self.typical) else "out-of-fold"
        command = f"<pre><code>{escape(self.review)}</code></pre>" if self.review else ""
        return {
            "worst": "".join(worst),
            "typical": _section(f"Typical {place} images", LEGEND, [_example(one, limit) for one in self.typical]),
            "doubts": _section("Doubtful labels", DOUBTS_NOTE + command, [_doubt(one, limit) for one in self.doubts]),
            "differences": _section(
                "Champion against challenger", DIFFERENCES_NOTE, [_difference(one, limit) for one in self.differences]
            ),
        }


def _section(title: str, note: str, cards: Sequence[str]) -> str:
    if not cards:
        return ""
    return f'<section><h2>{title}</h2>{note}<div class="gallery">{"".join(cards)}</div></section>'


def _example(one: Example, limit: int) -> str:
    alone = " · ".join(f"{escape(recipe)} {dice_text(dice)}" for recipe, dice in sorted(one.score.recipes.items()))
    extra = f"<br><small>{alone}</small>" if len(one.score.recipes) > 1 else ""
    return _card(one.score, one.panel, limit, f"Dice {dice_text(one.score.dice)}, {_place(one.score)}{extra}")


def _doubt(one: Doubtful, limit: int) -> str:
    regions = "".join(f"<li>{region_text(region)}</li>" for region in one.regions)
    return _card(one.score, one.panel, limit, f"{_place(one.score)}<ul>{regions}</ul>")


def _difference(one: Difference, limit: int) -> str:
    change = one.score.dice - one.champion
    words = f"Dice {dice_text(one.score.dice)}, the champion's {dice_text(one.champion)} ({change:+.5f})"
    return _card(one.score, one.panel, limit, words)


def _place(score: Score) -> str:
    return "holdout" if score.fold is None else f"fold {score.fold}"


def _card(score: Score, panel: Image | None, limit: int, words: str) -> str:
    name, picture = escape(score.image), ""
    if panel is not None:
        picture = f'<img alt="Panel of {name}" loading="lazy" src="{data_uri(panel, limit)}">'
    return f"<figure>{picture}<figcaption><b>{name}</b> {words}</figcaption></figure>"
