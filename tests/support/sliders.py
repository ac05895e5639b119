"""Moves the sliders of a page in a browser, and reads what it shows then."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.browser import Tab

MOVED = """
((shares) => [...document.querySelectorAll('.shares input')].forEach((input, i) => {
  input.value = Math.max(1, Math.round(input.max * shares[i % shares.length]));
  input.dispatchEvent(new Event('input', { bubbles: true }));
}))(SHARES)
"""
SHOWN = """
Object.fromEntries([...document.querySelectorAll('[data-cost]')].map((one) =>
  [one.dataset.cost, [one.querySelector('strong').textContent, one.querySelector('.quiet').textContent]]))
"""


@dataclass(frozen=True)
class Shown:
    """What a page predicts of one cost.

    Attributes:
        left: What is left, as a text.
        note: The share of what was there, as a text.
    """

    left: str
    note: str

    @property
    def count(self) -> int:
        """What is left, as a whole number."""
        return int(re.findall(r"[\d,]+", self.left)[0].replace(",", ""))

    @property
    def share(self) -> float:
        """The share of what was there."""
        return float(re.findall(r"[\d.]+", self.note)[0]) / 100


def move(tab: Tab, shares: Sequence[float]) -> tuple[dict[str, Shown], str]:
    """Leaves shares of the groups, in turns; what is predicted by the name of the cost, and the recipe."""
    tab.run(MOVED.replace("SHARES", json.dumps(list(shares))))
    shown = {name: Shown(*texts) for name, texts in tab.run(SHOWN).items()}
    return shown, tab.run("document.querySelector('.recipe').textContent")
