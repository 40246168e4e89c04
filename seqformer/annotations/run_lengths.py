"""COCO run-length masks: read, checked and converted without unrolling a single pixel.

A mask is a column-major list of run lengths that starts with the zeros. COCO writes it as text:
every length from the fourth on is replaced by its difference to the length two places earlier, and
each number becomes characters of five bits, lowest first, `chr(48 + bits)`, plus 32 where more
follow. The C library of pycocotools trusts that text: a cut number makes it read past the end, an
empty text crashes it, and of a text with a NUL it measures the part before and writes the whole.
Reading mask by mask costs more than reading: here NumPy reads and checks the masks of several
tracks at once.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from seqformer.annotations.errors import InvalidMaskError

RLE = dict[str, Any]
"""{"size": [height, width], "counts": text}, the compressed COCO form."""
MAX_PIXELS = 2**29 - 1
"""So that every difference of two runs fits the largest number that is read."""
MAX_CHARACTERS = 6
"""Characters of one number: 30 bits with the sign."""

_CONTINUED = bytes(range(48 + 32, 48 + 64))
_TOP = bytes((code - 48 + 16) % 32 - 16 & 255 for code in range(256))
"""The last character of a number as int8: five bits, the highest of which is the sign."""


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of N masks one after the other, as P pairs: so many zeros, then so many ones."""

    zeros: np.ndarray
    """[P] int32."""
    ones: np.ndarray
    """[P] int32; 0 in the last pair of a mask that ends with zeros."""
    first: np.ndarray
    """[N + 1]: the first pair of every mask, and P."""
    areas: np.ndarray
    """[N]: ones of every mask."""


def read_runs(counts: list[str], pixels: list[int]) -> Runs:
    """Read N compressed masks, and check that mask i describes pixels[i] pixels.

    Raises: InvalidMaskError naming the first mask that is not the text of such a mask.
    """
    if not counts:
        none = np.zeros(0, np.int32)
        return Runs(none, none, np.zeros(1, np.int64), none)
    runs, first = _parse(counts)
    # Differences are below 2**29, so a sum that leaves the 32 bits was too large or negative
    # before: as numbers without a sign both are seen.
    longest = int(runs.view(np.uint32).max())
    if longest > MAX_PIXELS:
        number = int((runs.view(np.uint32) > MAX_PIXELS).argmax())
        position = int(np.searchsorted(first, number // 2, "right")) - 1
        if runs[number] < 0:
            raise InvalidMaskError("has a negative run length", position)
        raise InvalidMaskError("has a run longer than any frame", position)
    is_short = longest * 2 * int(np.diff(first).max()) < 2**31
    totals = np.add.reduceat(runs, first[:-1] * 2, dtype=np.int32 if is_short else np.int64)
    is_wrong = totals != pixels
    if is_wrong.any():
        position = int(is_wrong.argmax())
        raise InvalidMaskError(
            f"has runs that add up to {totals[position]} pixels instead of {pixels[position]}",
            position,
        )
    zeros, ones = runs[0::2], runs[1::2]
    return Runs(zeros, ones, first, np.add.reduceat(ones, first[:-1], dtype=np.int32))


def decode_mask(rle: RLE) -> np.ndarray:
    """A mask that `read_runs` would accept, as bool [h, w]."""
    return coco_mask.decode(rle).astype(bool)


def encode_masks(masks: np.ndarray) -> list[RLE]:
    """Compress masks [h, w, N] (bool or uint8; column-major memory avoids a copy)."""
    encoded = coco_mask.encode(np.asfortranarray(masks.view(np.uint8)))
    return [{"size": list(m["size"]), "counts": m["counts"].decode("ascii")} for m in encoded]


def _parse(counts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers in the text, whatever their sense: [2P] zeros and ones in turn, and `first`."""
    # A mask usually ends with zeros, and is then a row of pairs with one more number behind it.
    text = ("0".join(counts) + "0").encode("ascii", "replace")
    code = np.frombuffer(text, np.uint8) - np.uint8(48)
    if code.max() > 63 or not all(map(str.isascii, counts)):
        is_plain = [mask.isascii() and "0" <= min(mask) <= max(mask) <= "o" for mask in counts]
        raise InvalidMaskError("has a foreign character in its counts", is_plain.index(False))
    byte_start = np.cumsum([0, *map(len, counts)]) + np.arange(len(counts) + 1)
    is_cut = code[byte_start[1:] - 2] >= 32
    if is_cut.any():
        problem = "has counts that stop in the middle of a number"
        raise InvalidMaskError(problem, int(is_cut.argmax()))

    # One value per number, of its last character alone. Then the characters before it, from the
    # highest down: where an index repeats, NumPy keeps the last assignment.
    values = np.frombuffer(text.translate(_TOP, delete=_CONTINUED), np.int8).astype("<i4")
    continued = np.flatnonzero(code >= 32)
    start = byte_start[:-1] - np.searchsorted(continued, byte_start[:-1])
    digit = code.take(continued) & np.uint8(31)
    number = continued
    number -= np.arange(number.size)
    for _ in range(MAX_CHARACTERS - 1):
        values[number] = values.take(number) * 32 + digit
        has_more = np.flatnonzero(number[1:] == number[:-1])
        number, digit = number.take(has_more), digit.take(has_more)
        if not number.size:
            break
    if number.size:
        position = int(np.searchsorted(start, number[0], "right")) - 1
        raise InvalidMaskError("has a run length of absurd size", position)

    num_numbers = np.diff(start, append=values.size)
    ends_with_zeros = num_numbers % 2 == 0
    if not ends_with_zeros.all():  # there the additional number was one too many
        values = np.delete(values, (start + num_numbers - 1)[~ends_with_zeros])
        start -= np.cumsum(~ends_with_zeros) - ~ends_with_zeros
    first = np.append(start, values.size) // 2
    third = start[np.diff(first) > 1] + 2
    values[third] -= values[third - 2]  # stored plainly, unlike all that follow
    runs = _sum_differences(values, first[:-1])
    runs[first[1:][ends_with_zeros] * 2 - 1] = 0
    return runs, first


def _sum_differences(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Running sums of P pairs, [2P] int32, in place; they begin anew at every pair of `first`.

    A running sum waits for the one before, so both of a pair are summed as one number of 64 bits.
    What its upper half lends to a negative lower one is given back first.
    """
    pairs = values.view("<i8")
    lent = pairs & 0x80000000
    lent <<= 1
    pairs -= lent
    totals = np.add.reduceat(pairs, first)
    pairs[first[1:]] -= totals[:-1]
    np.add.accumulate(pairs, out=pairs)
    return values


def compress_runs(runs: list[int] | np.ndarray) -> str:
    """The text of run lengths that start with the zeros.

    Raises: InvalidMaskError unless they are integers from 0 to MAX_PIXELS.
    """
    if isinstance(runs, list):
        try:
            runs = np.frombuffer(array("q", runs), np.int64)
        except (TypeError, OverflowError):
            raise InvalidMaskError("has run lengths that are not integers") from None
    if runs.view(np.uint64).max() > MAX_PIXELS:  # or negative
        raise InvalidMaskError(f"has a run length outside 0 to {MAX_PIXELS}")
    # The height and width are only copied into the result.
    return coco_mask.frPyObjects({"size": [1, 1], "counts": runs}, 1, 1)["counts"].decode("ascii")
