"""Drawing of the demo's videos: the shapes, how they move, and the pixels of a video."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

EDGE_PX = 1.5
"""Room around a shape for its antialiased edge."""

SignedDistance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(x, y) in units of the shape's radius -> about the distance to its outline, negative inside."""


def _star(points: int, inner: float) -> SignedDistance:
    """A star of outer radius 1; `inner` = cos(pi / points) gives the regular polygon."""
    half = math.pi / points
    edge = np.array([inner * math.cos(half) - 1, inner * math.sin(half)])
    normal_x, normal_y = edge[1] / np.hypot(*edge), -edge[0] / np.hypot(*edge)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        radius = np.hypot(x, y)
        # Fold all sectors onto the half sector between a tip and the notch next to it.
        angle = np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
        return (radius * np.cos(angle) - 1) * normal_x + radius * np.sin(angle) * normal_y

    return distance


def _disc(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.74) - 0.26


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - 0.3, np.maximum(x, y) - 0.95)


def _bar(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x - np.clip(x, -0.7, 0.7), y) - 0.3


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 1, 0.72 - np.hypot(x - 0.5, y))


SHAPES: dict[str, SignedDistance] = {
    "disc": _disc,
    "triangle": _star(3, 0.5),
    "star": _star(5, 0.42),
    "cross": _cross,
    "ring": _ring,
    "bar": _bar,
    "crescent": _crescent,
    "square": _star(4, math.sqrt(0.5)),
}
"""Every shape that can be a class, inside the circle of radius 1."""


@dataclass(frozen=True, kw_only=True)
class SyntheticConfig:
    """How hard the drawn videos are."""

    shapes: tuple[str, ...] = ("disc", "triangle", "star", "cross", "ring")
    """The classes, in order of their category ids 1, 2, ...; names out of `SHAPES`."""
    num_objects: tuple[int, int] = (1, 3)
    """Fewest and most objects of a video."""
    size: tuple[float, float] = (0.38, 0.62)
    """Smallest and largest diameter of an object, in frame heights."""
    size_change: float = 0.2
    """How far the diameter swings up or down during a video, as a share of it."""
    speed: float = 0.05
    """Largest way of an object from one frame to the next, in frame heights."""
    rotation_speed: float = 15.0
    """Largest turn of an object from one frame to the next, in degrees."""
    leave_share: float = 0.25
    """Share of videos in which one object leaves the frame and comes back (needs five frames)."""
    contrast: float = 0.35
    """Smallest distance of an object's colour to the ground and, halved, to other objects of the
    video, where the colours suffice; 1 is black to white."""
    object_texture: float = 0.3
    """Strength of the stripes on objects, 0..1."""
    background_texture: float = 0.25
    """Strength of the blotches of the ground, 0..1."""
    camera_speed: float = 0.01
    """Largest way of the ground from one frame to the next, in frame heights."""
    noise: float = 4.0
    """Standard deviation of the grain, in grey levels of 255."""
    min_visible_px: int = 16
    """An object that shows fewer pixels than this in a frame counts as absent there."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.shapes if name not in SHAPES]
        if unknown or not self.shapes or len(set(self.shapes)) != len(self.shapes):
            raise ValueError(f"shapes must be different names out of {list(SHAPES)}")
        for name, floor in (("num_objects", 1), ("size", 0.02)):
            low, high = getattr(self, name)
            if not floor <= low <= high:
                raise ValueError(
                    f"{name} must be (low, high) with {floor} <= low <= high, got {(low, high)}"
                )
        shares = ("size_change", "leave_share", "contrast", "object_texture", "background_texture")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        for name in ("speed", "rotation_speed", "camera_speed", "noise", "min_visible_px"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


def draw_video(
    rng: np.random.Generator, num_frames: int, height: int, width: int, config: SyntheticConfig
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One video.

    Returns: frames [T, H, W, 3] uint8; owner [T, H, W] int8, the object on top of each pixel or -1;
        the class of every object.
    """
    frames, mean_colour = _draw_ground(rng, num_frames, height, width, config)
    owner = np.full((num_frames, height, width), -1, np.int8)
    num_objects = int(rng.integers(config.num_objects[0], config.num_objects[1] + 1))
    leaver = 0 if rng.random() < config.leave_share and num_frames >= 5 else -1
    order = rng.permutation(num_objects)  # who leaves is independent of who lies on top
    classes: list[int] = []
    bases: list[np.ndarray] = []
    starts = np.empty((0, 2))
    for number in range(num_objects):
        shape = int(rng.integers(len(config.shapes)))
        classes.append(shape)
        radius = _radii(rng, num_frames, height, config)
        start = _start(rng, starts, height, width, radius[0])
        starts = np.vstack([starts, start])
        centre = _path(rng, start, radius, height, width, config.speed * height)
        if order[number] == leaver:
            centre += _detour(rng, centre, radius, height, width)
        turn = math.radians(config.rotation_speed) * rng.uniform(-1, 1)
        angle = rng.uniform(0, 2 * math.pi) + turn * np.arange(num_frames)
        colours = _object_colours(rng, mean_colour, bases, config)
        bases.append(colours[0])
        stripes = rng.uniform(0, 2 * math.pi), rng.uniform(5, 9), rng.uniform(0, 2 * math.pi)
        outline = SHAPES[config.shapes[shape]]
        _draw_object(frames, owner, number, outline, centre, radius, angle, colours, stripes)
    if config.noise:
        frames += rng.standard_normal(frames.shape, dtype=np.float32) * np.float32(config.noise)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8), owner, classes


def _draw_ground(
    rng: np.random.Generator, num_frames: int, height: int, width: int, config: SyntheticConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Blotches of three sizes around one colour, seen by a slowly moving camera.

    Returns: frames [T, H, W, 3] float32 in 0..255 and their mean colour [3].
    """
    step = rng.uniform(-1, 1, size=2) * config.camera_speed * height
    shift = np.rint(np.arange(num_frames)[:, None] * step).astype(int)
    shift -= shift.min(axis=0)
    tall, wide = height + shift[:, 1].max(), width + shift[:, 0].max()
    canvas = np.zeros((tall, wide, 3), np.float32)
    for cell, strength in ((height // 2, 1.0), (height // 6, 0.6), (max(height // 24, 2), 0.4)):
        coarse = rng.integers(0, 256, (tall // cell + 2, wide // cell + 2, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((wide, tall), Image.Resampling.BICUBIC)
        canvas += (np.asarray(smooth, np.float32) - 127.5) * strength
    canvas = rng.uniform(50, 205, size=3).astype(np.float32) + canvas * config.background_texture
    np.clip(canvas, 0, 255, out=canvas)
    frames = np.stack([canvas[y : y + height, x : x + width] for x, y in shift])
    return frames, frames.mean(axis=(0, 1, 2))


def _object_colours(
    rng: np.random.Generator,
    ground: np.ndarray,
    others: list[np.ndarray],
    config: SyntheticConfig,
) -> tuple[np.ndarray, np.ndarray]:
    """The two colours of an object's stripes, [3] each."""
    candidates = rng.uniform(0, 255, size=(64, 3))
    gaps = np.linalg.norm(candidates[:, None] - [ground, *others], axis=-1)  # [64, 1 + others]
    gaps[:, 1:] *= 2
    gap = gaps.min(axis=1) / (255 * math.sqrt(3))
    far = np.flatnonzero(gap >= config.contrast)
    base = candidates[far[0] if far.size else gap.argmax()]
    tint = base + 255 * config.object_texture * np.where(base < ground, -1, 1)
    # A colour beyond the range is folded back, so that dark and bright objects keep their stripes.
    tint = np.abs(255 - np.abs(255 - tint))
    return base.astype(np.float32), tint.astype(np.float32)


def _radii(
    rng: np.random.Generator, num_frames: int, height: int, config: SyntheticConfig
) -> np.ndarray:
    """Radius in pixels per frame, [T]: half a swing around the drawn size, within its limits."""
    low, high = (0.5 * size * height for size in config.size)
    phase = rng.uniform(0, 2 * math.pi) + np.linspace(0, math.pi, num_frames)
    swing = 1 + config.size_change * np.sin(phase)
    return np.clip(rng.uniform(low, high) * swing, low, high)


def _start(
    rng: np.random.Generator, others: np.ndarray, height: int, width: int, radius: float
) -> np.ndarray:
    """A centre (x, y) inside the frame, the one of three that is farthest from the others."""
    margin = min(radius, 0.5 * height, 0.5 * width)
    low, high = np.array([margin, margin]), np.array([width - margin, height - margin])
    candidates = rng.uniform(low, high, size=(3, 2))
    if not len(others):
        return candidates[0]
    gaps = np.linalg.norm(candidates[:, None] - others, axis=-1).min(axis=1)
    return candidates[gaps.argmax()]


def _path(
    rng: np.random.Generator,
    start: np.ndarray,
    radius: np.ndarray,
    height: int,
    width: int,
    speed_px: float,
) -> np.ndarray:
    """Centres [T, 2]: straight on, and back from the border before half of the shape is outside."""
    heading = rng.uniform(0, 2 * math.pi)
    step = speed_px * rng.uniform(0.2, 1) * np.array([math.cos(heading), math.sin(heading)])
    straight = start + np.arange(len(radius))[:, None] * step
    margin = np.minimum(0.4 * radius.mean(), [0.5 * width - 1, 0.5 * height - 1])
    span = np.array([width, height]) - 2 * margin
    return margin + span - np.abs((straight - margin) % (2 * span) - span)


def _detour(
    rng: np.random.Generator, centre: np.ndarray, radius: np.ndarray, height: int, width: int
) -> np.ndarray:
    """What to add to the centres so that the object is gone for some frames in the middle, [T, 2].

    It goes over the nearest of the four borders and is there on the first and the last frame.
    """
    num_frames = len(centre)
    gone = max(1, num_frames // 4)
    first = int(rng.integers(2, num_frames - gone - 1))
    time = np.arange(num_frames)
    leaving = time / first
    returning = (num_frames - 1 - time) / (num_frames - first - gone)
    outside = np.clip(np.minimum(leaving, returning), 0, 1) ** 2  # slow inside, fast at the border
    x, y = centre[first]
    ways = np.array([[-x, 0], [width - x, 0], [0, -y], [0, height - y]])
    nearest = ways[np.abs(ways).sum(axis=1).argmin()]
    reach = 1 + (radius.max() + EDGE_PX + np.ptp(centre, axis=0).max()) / np.abs(nearest).sum()
    return outside[:, None] * nearest * reach


def _draw_object(
    frames: np.ndarray,
    owner: np.ndarray,
    number: int,
    outline: SignedDistance,
    centre: np.ndarray,
    radius: np.ndarray,
    angle: np.ndarray,
    colours: tuple[np.ndarray, np.ndarray],
    stripes: tuple[float, float, float],
) -> None:
    """Lay an object over all frames, in a window just large enough for it, and claim its pixels."""
    num_frames, height, width = owner.shape
    half = math.ceil(radius.max() + EDGE_PX)
    corner = np.floor(centre).astype(int) - half  # [T, 2]
    offsets = np.arange(2 * half + 1) + 0.5
    dx = ((corner[:, :1] + offsets) - centre[:, :1])[:, None, :].astype(np.float32)  # [T, 1, S]
    dy = ((corner[:, 1:] + offsets) - centre[:, 1:])[:, :, None].astype(np.float32)  # [T, S, 1]
    cos = (np.cos(angle) / radius).astype(np.float32)[:, None, None]
    sin = (np.sin(angle) / radius).astype(np.float32)[:, None, None]
    x, y = cos * dx + sin * dy, cos * dy - sin * dx
    distance_px = outline(x, y) * radius.astype(np.float32)[:, None, None]
    alpha = np.clip(0.5 - distance_px, 0, 1).astype(np.float32)
    direction, frequency, phase = stripes
    wave = math.cos(direction) * x + math.sin(direction) * y
    blend = (0.5 + 0.5 * np.sin(frequency * wave + phase)).astype(np.float32)[..., None]
    paint = colours[0] + blend * (colours[1] - colours[0])
    for t in range(num_frames):
        x0, y0 = corner[t]
        rows = slice(max(y0, 0), min(y0 + len(offsets), height))
        columns = slice(max(x0, 0), min(x0 + len(offsets), width))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        window = (
            t,
            slice(rows.start - y0, rows.stop - y0),
            slice(columns.start - x0, columns.stop - x0),
        )
        opacity = alpha[window]
        frames[t, rows, columns] += opacity[..., None] * (paint[window] - frames[t, rows, columns])
        owner[t, rows, columns][opacity >= 0.5] = number
