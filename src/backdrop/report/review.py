"""The gallery of doubtful labels: pages that need no other file and no network, with a decision for each mask."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from backdrop.common.storage import sha256
from backdrop.common.words import count
from backdrop.evaluation.pictures import Image, data_uri
from backdrop.evaluation.review import Region
from backdrop.report.parts import frame, sheet

CARDS = 40  # a page
PICTURE_BYTES = 44_000  # limit of one picture, so that a page stays below 2 MB
ABOUT = """Each mask was compared with the prediction of members that did not train on it. A region is listed where they
are sure of the opposite, with its size in pixels and as a share of the product. An ensemble errs, too: look, and
decide."""
KEYS = "<kbd>↓</kbd> <kbd>↑</kbd> next and previous, <kbd>a</kbd> accept, <kbd>f</kbd> flag, <kbd>u</kbd> undo"


@dataclass(frozen=True)
class Card:
    """A mask to decide on: its image, where it is in the plan, its doubtful regions, and its panel."""

    image: str
    fold: int | None
    regions: Sequence[Region]
    panel: Image


def page_name(number: int) -> str:
    """The file of a page, counted from 0."""
    return "index.html" if number == 0 else f"page-{number + 1}.html"


def render_review(name: str, data: str, cards: Sequence[Card], photographs: int) -> dict[str, str]:
    """The pages by file name; the same cards give the same bytes.

    Args:
        name: the dataset's.
        data: the digest of the plan's data; decisions are kept in the browser under it.
        cards: most doubtful first.
        photographs: how many masks were compared.
    """
    starts = range(0, max(1, len(cards)), CARDS)
    return {
        page_name(number): _page(name, data, (cards, photographs), (number, len(starts)))
        for number in range(len(starts))
    }


def _page(name: str, data: str, content: tuple[Sequence[Card], int], place: tuple[int, int]) -> str:
    cards, photographs = content
    number, pages = place
    shown = cards[number * CARDS : (number + 1) * CARDS]
    key = f"backdrop-review-{sha256(data.encode())[:16]}"
    gallery = "".join(_card(card) for card in shown)
    body = (
        f'<section id="review" data-key="{key}">{_bar(number, pages)}'
        f'<p class="note">{KEYS}. Decisions stay in this browser until you save them.</p>'
        f'<p class="note"><span class="key missing"></span>label <span class="key surplus"></span>ensemble</p>'
        f'<div class="gallery">{gallery or "No mask is in doubt."}</div></section>'
    )
    line = f"{count(photographs, 'mask')} compared, the {len(cards)} most doubtful shown" if cards else ""
    headline = f'<p class="counts">{line or count(photographs, "mask") + " compared"}</p>'
    return frame("Label review", name, headline, body, ABOUT, ("data", data), sheet("review.css"), sheet("review.js"))


def _bar(number: int, pages: int) -> str:
    links = "".join(
        f'<a href="{page_name(other)}"{" aria-current=page" if other == number else ""}>{other + 1}</a>'
        for other in range(pages)
    )
    turn = f'<nav aria-label="Pages">{links}</nav>' if pages > 1 else ""
    save = "".join(f'<button type="button" data-save="{kind}">Save {kind.upper()}</button>' for kind in ("csv", "json"))
    return f'<div class="bar"><span id="status" role="status"></span>{save}{turn}</div>'


def _card(card: Card) -> str:
    place = "holdout" if card.fold is None else f"fold {card.fold}"
    regions = "".join(f"<li>{region_text(region)}</li>" for region in card.regions)
    image = escape(card.image)
    picture = f'<img alt="Label and prediction of {image}" src="{data_uri(card.panel, PICTURE_BYTES)}">'
    choices = "".join(
        f'<button type="button" data-choice="{value}" aria-pressed="false">{title}</button>'
        for value, title in (("accept", "Accept"), ("flag", "Flag"))
    )
    words = f"<b>{image}</b>{place}<ul>{regions}</ul>"
    return (
        f'<figure class="card" tabindex="0" data-image="{image}">{picture}'
        f'<figcaption>{words}</figcaption><div class="choice">{choices}</div></figure>'
    )


def region_text(region: Region) -> str:
    """A doubtful region in a few words."""
    return f"{region.kind}: {region.pixels:,} pixels, {100 * region.severity:.2f} %"


def kinds_of(regions: Mapping[str, Sequence[Region]]) -> dict[str, int]:
    """How many masks have each kind of region as their most severe one, most frequent first."""
    firsts = [found[0].kind for found in regions.values() if found]
    return {kind: firsts.count(kind) for kind in sorted(set(firsts), key=lambda kind: (-firsts.count(kind), kind))}
