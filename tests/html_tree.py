"""HTML as its elements, and what every page must keep to."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "link", "img", "input"}


class Tree(HTMLParser):
    """Elements as (tag, attributes, text); an element closed out of turn is an error."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict, list[str]]] = []
        self.found: list[tuple[str, dict, list[str]]] = []
        self.feed(content)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes), (tag, attributes)
        element = (tag, dict(attributes), [])
        self.found.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, (tag, self.getpos())
        self.open.pop()

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def of(self, tag: str, **wanted: str) -> list[tuple[str, dict, list[str]]]:
        return [e for e in self.found if e[0] == tag and all(e[1].get(k) == v for k, v in wanted.items())]


def sound(content: str) -> Tree:
    tree = Tree(content)
    ids = [a["id"] for _, a, _ in tree.found if "id" in a]
    assert len(ids) == len(set(ids))
    for _, a, _ in tree.found:
        for name in a.get("aria-labelledby", "").split():
            assert name in ids
        if (link := a.get("href", "#")).startswith("#") and len(link) > 1:
            assert link[1:] in ids
    assert "nan" not in re.findall(r'="([^"]*)"', content) and not re.search(r"\b(nan|inf|None)\b", " ".join(
        v for t, a, _ in tree.found for k, v in a.items() if k in ("x", "y", "d", "cx", "cy", "x1", "y1", "width")
    ))  # fmt: skip
    return tree
