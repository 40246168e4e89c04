"""Draws the two pictures of docs/architecture.md: `python docs/pictures.py`.

A picture is a grid of boxes and the arrows between them. The text of a box is its name, and below
it what it gives, in the letters of the code: B clips, T frames, Q queries, C channels, L levels,
S tokens, N instances, K classes, G generated weights of an instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN, LINE = 200, 76, 42, 40, 14, 18
FILLS = {"data": "#eef2f7", "model": "#dcebdc", "kernel": "#fbe6cc", "loss": "#f4dede"}
"""Kinds of boxes: what is read and written, the model, operators of `kernels`, losses."""


@dataclass(frozen=True)
class Box:
    """One step.

    Attributes:
        place: (column, row).
        text: lines; the first is the name.
        kind: a key of `FILLS`.
    """

    place: tuple[int, int]
    text: Sequence[str]
    kind: str


Picture = tuple[str, str]
"""Boxes, one a line: name, column, row, kind, text. Arrows: "from > to", separated by commas."""

TRAINING_STEP = (
    """
clips     0 0 data   ClipBatch / images [B,T,3,H,W] / padding_mask [B,H,W]
backbone  1 0 model  backbone / strides 8, 16, 32 (and 64) / L maps [B·T,C,h,w]
encoder   2 0 model  encoder / each frame alone / memory [B,T,S,C]
msda      3 0 kernel ms_deform_attn_fused / softmax, places, padding / in one launch
pixels    1 1 model  mask branch / once per step / mask_features [B,T,8,h,w]
boxes     2 1 model  box stream / each frame alone / [B,T,Q,C], reference points
pool      3 1 model  temporal pool / softmax over T / instance stream [B,Q,C]
heads     3 2 model  heads, per layer / class_logits [B,Q,K] / boxes [B,T,Q,4], params [B,Q,G]
matcher   2 2 loss   matcher / the one wait for the device / query, target, clip [N]
targets   2 3 data   ClipTargets / labels, boxes, masks / of every clip
masks     1 2 kernel dynamic_mask_loss / masks [N,T,H/4,W/4] / are never stored
criterion 1 3 loss   criterion / over num_instances, the / global mean, per layer
step      0 3 loss   backward, AdamW / a step that is not finite / is skipped and counted
""",
    """
clips > backbone, backbone > encoder, msda > encoder, encoder > boxes, encoder > pixels,
boxes > pool, pool > heads, heads > matcher, targets > matcher, matcher > masks,
pixels > masks, masks > criterion, targets > criterion, criterion > step
""",
)
VIDEO = (
    """
frames    0 0 data   frames / any number, decoded ahead / [T,3,h0,w0] uint8
resize    1 0 model  resize / shorter side 360 / a chunk [t,3,H,W]
network   2 0 model  backbone, encoder / a chunk of frames at once: / all of it is per frame
boxes     3 0 model  box stream / per frame / boxes [Q,4] of each
store     2 1 data   frame store / mask_features; to disk / beyond --memory-mib
pool      3 1 model  six pooled sums / over all frames so far / instance stream [Q,C]
choice    3 2 model  top k of Q x K / class_logits [Q,K] / N distinct queries
masks     2 2 kernel dynamic_mask_head / one instance at a time / [T,H/4,W/4] logits
encode    1 2 kernel encode_masks / enlarge, cut at 0, crop / T run lengths
results   0 2 data   results.json / written beside its name, / then renamed
""",
    """
frames > resize, resize > network, network > boxes, network > store, boxes > pool,
pool > choice, choice > masks, store > masks, masks > encode, encode > results
""",
)


def svg(picture: Picture) -> str:
    """The picture as SVG, the same text each time."""
    boxes, arrows = _parsed(picture)
    columns = 1 + max(box.place[0] for box in boxes.values())
    rows = 1 + max(box.place[1] for box in boxes.values())
    width = 2 * MARGIN + columns * WIDTH + (columns - 1) * GAP_X
    height = 2 * MARGIN + rows * HEIGHT + (rows - 1) * GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="DejaVu Sans, Arial, sans-serif">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#444"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        *(_arrow(boxes[start], boxes[end]) for start, end in arrows),
        *(_box(box) for box in boxes.values()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _parsed(picture: Picture) -> tuple[dict[str, Box], list[tuple[str, str]]]:
    boxes = {}
    for line in picture[0].strip().splitlines():
        name, column, row, kind, text = line.split(maxsplit=4)
        boxes[name] = Box((int(column), int(row)), text.split(" / "), kind)
    pairs = [arrow.split(">") for arrow in picture[1].split(",")]
    return boxes, [(start.strip(), end.strip()) for start, end in pairs]


def _corner(box: Box) -> tuple[int, int]:
    column, row = box.place
    return MARGIN + column * (WIDTH + GAP_X), MARGIN + row * (HEIGHT + GAP_Y)


def _box(box: Box) -> str:
    x, y = _corner(box)
    lines = [
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" '
        f'fill="{FILLS[box.kind]}" stroke="#444"/>'
    ]
    for number, text in enumerate(box.text):
        weight = ' font-weight="bold"' if number == 0 else ""
        size = 13 if number == 0 else 11.5
        place = f'x="{x + WIDTH // 2}" y="{y + 24 + number * LINE}"'
        lines.append(
            f'<text {place} font-size="{size}"{weight} text-anchor="middle" fill="#111">'
            f"{escape(text)}</text>"
        )
    return "\n".join(lines)


def _arrow(start: Box, end: Box) -> str:
    """Straight between the facing sides of two boxes of one row or column, else from corner to
    corner of the gap between them.
    """
    (x0, y0), (x1, y1) = _corner(start), _corner(end)
    right, down = x1 > x0, y1 > y0
    if y0 == y1:
        points = (x0 + WIDTH * right, y0 + HEIGHT // 2, x1 + WIDTH * (not right), y1 + HEIGHT // 2)
    elif x0 == x1:
        points = (x0 + WIDTH // 2, y0 + HEIGHT * down, x1 + WIDTH // 2, y1 + HEIGHT * (not down))
    else:
        points = (
            x0 + WIDTH * right,
            y0 + HEIGHT * down,
            x1 + WIDTH * (not right),
            y1 + HEIGHT * (not down),
        )
    a, b, c, d = points
    return f'<path d="M{a},{b} L{c},{d}" stroke="#444" fill="none" marker-end="url(#end)"/>'


PICTURES = {"training_step.svg": TRAINING_STEP, "video.svg": VIDEO}


def main() -> None:
    """Write both files beside this one."""
    for name, picture in PICTURES.items():
        (FOLDER / name).write_text(svg(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
