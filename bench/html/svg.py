"""Elements, axes, markers and labels of charts; every chart has a title and a description for those who hear it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

# Mean width of a character in units of its size, in wide fonts; bold ones are wider still.
CHARACTER, BOLD = 0.6, 0.7
SHAPES = ("circle", "square", "triangle", "diamond", "down", "cross", "plus", "star")


def el(tag: str, *inside: str, **attributes: str | float | None) -> str:
    """An element; `inside` is markup, attributes are escaped, `_` in a name is a hyphen."""
    text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{text}>{''.join(inside)}</{tag}>"


def prose(content: str) -> str:
    """Text of the page, escaped; a number and its percent sign stay on one line."""
    return escape(content).replace(" %", "\N{NO-BREAK SPACE}%")


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def width_of(text: str, size: float) -> float:
    return CHARACTER * size * len(text)


def clip(text: str, room: float, size: float) -> str:
    """The text, or its beginning and an ellipsis where it is wider than `room`."""
    fit = int(room / (CHARACTER * size))
    return text if len(text) <= fit else text[: max(fit - 1, 1)] + "…"


def chart(name: str, title: str, description: str, width: float, height: float, *inside: str, kind: str = "") -> str:
    """A whole chart; `name` is unique on the page."""
    return el(
        "svg",
        el("title", escape(title), id=f"{name}-t"),
        el("desc", escape(description), id=f"{name}-d"),
        *inside,
        class_=f"chart {kind}".strip(), viewBox=f"0 0 {_plain(width)} {_plain(height)}", role="img",
        aria_labelledby=f"{name}-t {name}-d",
    )  # fmt: skip


def text(x: float, y: float, content: str, *, anchor: str = "start", class_: str = "label", hover: str = "") -> str:
    inside = [el("title", escape(hover))] if hover else []
    return el("text", *inside, escape(content), x=x, y=y, text_anchor=anchor, class_=class_)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def marker(shape: str, x: float, y: float, size: float, class_: str, hover: str = "", **data: str | float) -> str:
    """A mark centred on (x, y), told from the others by its shape alone."""
    inside = [el("title", escape(hover))] if hover else []
    if shape == "circle":
        return el("circle", *inside, cx=x, cy=y, r=size, class_=class_, **data)
    s = size
    corners = {
        "square": [(-s, -s), (s, -s), (s, s), (-s, s)],
        "triangle": [(0, -1.2 * s), (1.15 * s, s), (-1.15 * s, s)],
        "down": [(0, 1.2 * s), (1.15 * s, -s), (-1.15 * s, -s)],
        "diamond": [(0, -1.4 * s), (1.2 * s, 0), (0, 1.4 * s), (-1.2 * s, 0)],
        "star": [
            (r * s * math.sin(k * math.pi / 5), -r * s * math.cos(k * math.pi / 5))
            for k, r in enumerate(itertools.islice(itertools.cycle((1.5, 0.6)), 10))
        ],
    }
    if shape in corners:
        path = "M" + "L".join(f"{_plain(x + dx)} {_plain(y + dy)}" for dx, dy in corners[shape]) + "Z"
        return el("path", *inside, d=path, class_=class_, **data)
    strokes = (
        [(-s, -s, s, s), (-s, s, s, -s)] if shape == "cross" else [(-1.3 * s, 0, 1.3 * s, 0), (0, -1.3 * s, 0, 1.3 * s)]
    )
    path = "".join(f"M{_plain(x + a)} {_plain(y + b)}L{_plain(x + c)} {_plain(y + d)}" for a, b, c, d in strokes)
    return el("path", *inside, d=path, class_=f"{class_} stroked", **data)


@dataclass(frozen=True)
class Axis:
    """From values between `low` and `high` to units between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values within the axis."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
                found = [s * 10.0**d for d in decades for s in steps]
                found = [v for v in found if self.low <= v * (1 + 1e-9) and v <= self.high * (1 + 1e-9)]
                if len(found) <= count + 2:
                    break
            if len(found) > 1:
                return found[:: math.ceil(len(found) / (count + 2))]
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * s for s in (1, 2, 5, 10) if power * s >= rough * (1 - 1e-9))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def spanning(values: Iterable[float], start: float, end: float, *, log: bool = False, margin: float = 0.06) -> Axis:
    """An axis that holds all values, with a margin; one value alone lies in its middle."""
    found = list(values)
    low, high = min(found), max(found)
    if log:
        grow = (high / low) ** margin if high > low else 2.0
        return Axis(low / grow, high * grow, start, end, True)
    grow = (high - low) * margin or max(abs(high), 1e-9) * 0.01
    return Axis(low - grow, high + grow, start, end)


def swarm(points: Sequence[tuple[float, float]], size: float, most: float) -> list[float]:
    """Where along x to draw each mark so that none covers one before it: as little aside as will do, `most` at most."""
    placed: list[tuple[float, float]] = []
    sides = [0.0]
    while sides[-1] + size / 2 <= most:
        sides.append(sides[-1] + size / 2)
    offsets = [s * side for side in sides for s in ((1, -1) if side else (1,))]
    for x, y in points:
        free = (x + o for o in offsets if all(math.hypot(x + o - a, y - b) >= size for a, b in placed))
        placed.append((next(free, x), y))
    return [x for x, _ in placed]


Box = tuple[float, float, float, float]


@dataclass
class Labels:
    """Places text beside marks where it covers neither a mark nor other text, with a leader where it must go far."""

    bounds: Box
    size: float
    taken: list[Box] = field(default_factory=list)

    def block(self, x: float, y: float, size: float) -> None:
        self.taken.append((x - size, y - size, x + size, y + size))

    def avoid(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Keep clear of a line along an axis."""
        self.taken.append((min(x1, x2) - 1, min(y1, y2) - 1, max(x1, x2) + 1, max(y1, y2) + 1))

    def place(self, x: float, y: float, content: str, class_: str) -> str:
        """Markup of the label, in bold, or nothing where there is no room."""
        width, height = BOLD * self.size * len(content), self.size
        for reach in (7, 16, 28):
            for dx, dy in ((-0.7, -0.7), (0.7, -0.7), (0, -1), (-1, 0), (1, 0), (0.7, 0.7), (-0.7, 0.7), (0, 1)):
                left = x + dx * reach - (width if dx < 0 else width / 2 if dx == 0 else 0)
                top = y + dy * reach - (height if dy < 0 else height / 2 if dy == 0 else 0)
                box = (left, top, left + width, top + height)
                if self._free(box):
                    self.taken.append(box)
                    words = text(left, top + 0.8 * height, content, class_=class_)
                    if reach <= 7:
                        return words
                    near = (min(max(x, left), left + width), min(max(y, top), top + height))
                    return line(x, y, *near, "leader") + words
        return ""

    def _free(self, box: Box) -> bool:
        a, b, c, d = box
        e, f, g, h = self.bounds
        inside = a >= e and b >= f and c <= g and d <= h
        return inside and not any(a < z and c > x and b < w and d > y for x, y, z, w in self.taken)
