"""A made-up language: short stories by rules, as ids of words, so that a decoder has something to learn.

A story names people, things that they own and places, and refers back to them later, so that attention is of use; sums
of small numbers have to be known by heart, which is what the wide layers are for; words are as unevenly frequent as
those of real text (Zipf's law).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

LENGTH = 64
"""Words of a sample."""


def _words(text: str) -> list[str]:
    return text.split()


PEOPLE = _words("anna ben clara david emma felix gina henry ida jonas karla leo mia noah olga paul")
WOMEN = set(PEOPLE[::2])
ANIMALS = _words("cat dog horse mouse bird fish goat sheep wolf fox bear frog")
SOUNDS = _words("meows barks neighs squeaks sings splashes bleats baas howls yelps growls croaks")
THINGS = _words("ball book lamp cup shoe coat key drum boat kite ring map bell box hat spoon")
PLACES = _words("house garden river forest market school tower bridge harbour field")
COLOURS = _words("red blue green white black yellow brown grey")
SIZES = _words("small large old new heavy light broken shiny")
NUMBERS = [
    *_words("zero one two three four five six seven eight nine ten"),
    *_words("eleven twelve thirteen fourteen fifteen sixteen"),
]
VERBS = _words("finds loses buys sells paints hides carries throws")
OTHERS = ". , ? the a his her he she is in at to goes has owns sees and plus makes where what who asks says then now "
WORDS = [
    "<unknown>",
    *OTHERS.split(),
    *[*PEOPLE, *ANIMALS, *SOUNDS, *THINGS, *PLACES, *COLOURS, *SIZES, *NUMBERS, *VERBS],
]
ID_OF = {word: i for i, word in enumerate(WORDS)}


def samples(count: int, seed: int) -> NDArray[np.int64]:
    """Stories one after another, cut into samples; shape (count, LENGTH)."""
    rng = np.random.default_rng(seed)
    words: list[int] = []
    while len(words) < count * LENGTH:
        words += [ID_OF[word] for word in _story(rng)]
    return np.array(words[: count * LENGTH], dtype=np.int64).reshape(count, LENGTH)


def _one(rng: np.random.Generator, words: list[str]) -> str:
    """A word, the earlier ones more often."""
    shares = 1 / np.arange(1, len(words) + 1)
    return words[int(rng.choice(len(words), p=shares / shares.sum()))]


def _story(rng: np.random.Generator) -> Iterator[str]:
    """Who is somewhere and owns something; then what happens, and questions whose answers were told."""
    who = _one(rng, PEOPLE)
    he, his = ("she", "her") if who in WOMEN else ("he", "his")
    thing, animal, place = _one(rng, THINGS), _one(rng, ANIMALS), _one(rng, PLACES)
    look = f"{_one(rng, SIZES)} {_one(rng, COLOURS)}"
    yield from f"{who} owns a {look} {thing} and a {animal} .".split()
    yield from f"now {who} is at the {place} .".split()
    for _ in range(int(rng.integers(1, 4))):
        kind = int(rng.integers(4))
        if kind == 0:
            yield from f"{he} {_one(rng, VERBS)} {his} {look} {thing} at the {place} .".split()
        elif kind == 1:
            place = _one(rng, PLACES)
            yield from f"then {he} goes to the {place} and {_one(rng, VERBS)} a {_one(rng, THINGS)} .".split()
        elif kind == 2:
            yield from f"{his} {animal} {SOUNDS[ANIMALS.index(animal)]} .".split()
        else:
            a, b = (int(n) for n in rng.integers(0, 9, 2))
            yield from f"{he} says , {NUMBERS[a]} plus {NUMBERS[b]} makes {NUMBERS[a + b]} .".split()
    kind = int(rng.integers(3))
    if kind == 0:
        yield from f"where is {who} ? at the {place} .".split()
    elif kind == 1:
        yield from f"what has {who} ? a {look} {thing} .".split()
    else:
        yield from f"who owns the {thing} ? {who} .".split()
