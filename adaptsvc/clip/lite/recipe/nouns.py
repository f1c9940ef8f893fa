"""English nouns for things a photo can show, read from WordNet's own files.

Knows the WordNet 3.0 database format, and nothing of models or training.

Reference: wndb(5WN), senseidx(5WN) and lexnames(5WN) of the WordNet 3.0 distribution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Lexicographer files (lexnames(5WN)): animal, artifact, body, food, object, person, plant, substance.
PHYSICAL = frozenset({"05", "06", "08", "13", "17", "18", "20", "27"})
# Scenes and happenings: act, event, group, location, phenomenon, shape. Only words met in tagged text.
SCENES = frozenset({"04", "11", "14", "15", "19", "25"})
NOUN = "1"


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun and how often the tagged texts of WordNet use it as a noun."""

    name: str
    count: int


def read_nouns(wordnet: Path) -> tuple[Noun, ...]:
    """Read the nouns of physical things, most frequent first, then by name.

    Instances (Einstein, the Nile) are left out; a scene word needs at least one use in tagged text.

    Args:
        wordnet: Folder holding `data.noun` and `cntlist.rev`.

    Returns:
        Distinct nouns, one entry per spelling regardless of case.
    """
    counts = count_uses(wordnet / "cntlist.rev")
    nouns: dict[str, Noun] = {}
    for line in (wordnet / "data.noun").read_text(encoding="latin-1").splitlines():
        for lexfile, name in _lemmas(line):
            count = counts[name.lower()]
            if lexfile in PHYSICAL or count > 0:
                nouns.setdefault(name.lower(), Noun(name, count))
    return tuple(sorted(nouns.values(), key=lambda noun: (-noun.count, noun.name)))


def count_uses(cntlist: Path) -> Counter[str]:
    """Sum the tagged uses of each noun over its senses; keys are lower case with spaces."""
    counts: Counter[str] = Counter()
    for line in cntlist.read_text(encoding="latin-1").splitlines():
        sense, _, count = line.split(" ")
        lemma, _, rest = sense.partition("%")
        if rest.startswith(NOUN):
            counts[lemma.replace("_", " ")] += int(count)
    return counts


def _lemmas(line: str) -> Iterator[tuple[str, str]]:
    """Yield (lexicographer file, name) of one line of data.noun; nothing for licence and instances."""
    if line.startswith(" "):
        return
    fields = line.partition(" | ")[0].split(" ")
    lexfile, words = fields[1], int(fields[3], 16)
    if "@i" in fields or lexfile not in PHYSICAL | SCENES:
        return
    for word in fields[4 : 4 + 2 * words : 2]:
        yield lexfile, word.replace("_", " ")
