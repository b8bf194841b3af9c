"""The page of one member: its curves, and the photographs of its own fold with the lowest Dice."""

from html import escape
from pathlib import Path

import cv2
import numpy as np

from backdrop.evaluation.pictures import data_uri
from backdrop.inference.member import SAMPLES, Member
from backdrop.report.page import MemberSummary, curves_of
from backdrop.report.parts import dice_text, fact, frame, time_text

PICTURE_BYTES = 200_000  # limit of one picture
ABOUT = """The Dice is that of the member alone on the fold that it did not train on. Of that fold, the photographs with
the lowest Dice are shown with truth, prediction and signed error. The record of each is in the member's folder."""


def render_member(member: Member) -> str:
    """The page, which needs no other file; the same member gives the same bytes.

    Raises:
        MemberError: if `metrics.jsonl` can't be read.
    """
    record = member.record
    summary = MemberSummary(
        name=member.name,
        fold=record.fold,
        epochs=record.epochs,
        selected_epoch=record.selected_epoch,
        oof_dice=record.dice,
        holdout_dice=None,
        seconds=record.seconds,
        history=member.history(),
    )
    note = f"epoch {record.selected_epoch + 1} of {record.epochs}, trained in {time_text(record.seconds)}"
    headline = f'<div class="facts">{fact("Dice out of fold", dice_text(record.dice), note)}</div>'
    figures = "".join(_figure(path) for path in sorted((member.folder / SAMPLES).glob("*.png")))
    body = f"<section><h2>Curves over epochs</h2>{curves_of([summary])}</section>"
    if figures:
        body += f'<section><h2>Worst out-of-fold images</h2><div class="gallery">{figures}</div></section>'
    return frame("Backdrop member", member.name, headline, body, ABOUT, ("content key", record.key))


def _figure(path: Path) -> str:
    """A picture that training left, named `worst-RANK-IMAGE-DICE.png`; empty if it is damaged, for it isn't needed."""
    picture = cv2.imread(str(path))
    if picture is None:
        return ""
    name, _, dice = escape(path.stem.split("-", 2)[-1]).rpartition("-")
    uri = data_uri(np.asarray(picture[..., ::-1], np.uint8, order="C"), PICTURE_BYTES)
    return f'<figure><img alt="Panel of {name}" src="{uri}"><figcaption><b>{name}</b> Dice {dice}</figcaption></figure>'
