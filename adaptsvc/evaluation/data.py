"""Folder data sets: which files there are, and of which domain and class.

It knows nothing of pixels, models or methods. The tree is DIR/domain/class/*.jpg; DIR/class/*.jpg is one
domain, named after the folder. Hidden folders are left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adaptsvc.errors import ConfigError
from streams.replay import SUFFIXES, image_files

EXTRA = "--unknown"  # the class of images that come from the option of that name
DEFAULT_KNOWN = 0.6
LAYOUT = f"expected DIR/domain/class/*.jpg or DIR/class/*.jpg ({', '.join(sorted(SUFFIXES))})"


@dataclass(frozen=True, slots=True)
class Entry:
    """One image file and the name of its class."""

    file: Path
    name: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A folder data set.

    Attributes:
        root: the folder.
        domains: the files of each, ordered by class and file name.
    """

    root: Path
    domains: Mapping[str, tuple[Entry, ...]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Every class of any domain, in alphabetical order."""
        return tuple(sorted({e.name for entries in self.domains.values() for e in entries}))


def read_tree(folder: Path) -> Tree:
    """The files of a data set; none is opened.

    Raises:
        ConfigError: no such folder, another layout, or fewer than 2 classes.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; {LAYOUT}")
    classes = [sub for sub in _subfolders(folder) if _images(sub)]
    domains = [sub for sub in _subfolders(folder) if any(map(_images, _subfolders(sub)))]
    if classes and domains:
        raise ConfigError(
            f"{folder} mixes two layouts: {classes[0].name}/ holds images itself, {domains[0].name}/ holds "
            f"folders of images; {LAYOUT}"
        )
    found = {folder.resolve().name: _entries(folder)} if classes else {}
    tree = Tree(folder, found or {domain.name: _entries(domain) for domain in domains})
    if len(tree.classes) < 2:
        raise ConfigError(
            f"{folder} holds {len(tree.classes)} classes with images, at least 2 are needed; {LAYOUT}"
        )
    return tree


def read_extra(folder: Path) -> tuple[Entry, ...]:
    """Every image under a folder, as images of no known class.

    Raises:
        ConfigError: there is none.
    """
    entries = tuple(Entry(file, EXTRA) for file in image_files(folder))
    if not entries:
        raise ConfigError(f"{EXTRA} names {folder}, which holds no images; give another folder")
    return entries


def choose_known(tree: Tree, asked: Sequence[str]) -> tuple[str, ...]:
    """The list L of class names the model is given; without a wish the first 60 % of the alphabet.

    Raises:
        ConfigError: a name the tree has not, one given twice, or fewer than 2.
    """
    classes = tree.classes
    if not asked:
        return classes[: max(2, round(DEFAULT_KNOWN * len(classes)))]
    missing = [name for name in asked if name not in classes]
    if missing:
        raise ConfigError(
            f"--known names {', '.join(missing)}, which is no class of {tree.root}; it has "
            f"{', '.join(classes)}"
        )
    if len(set(asked)) < len(asked) or len(asked) < 2:
        raise ConfigError(f"--known is {','.join(asked)}; give at least 2 different class names")
    return tuple(asked)


def choose_domains(tree: Tree, asked: Sequence[str]) -> tuple[str, ...]:
    """The domains to measure on; without a wish all of them.

    Raises:
        ConfigError: a name the tree has not.
    """
    missing = [name for name in asked if name not in tree.domains]
    if missing:
        raise ConfigError(
            f"--domains names {', '.join(missing)}, which is no domain of {tree.root}; it has "
            f"{', '.join(tree.domains)}"
        )
    return tuple(dict.fromkeys(asked)) or tuple(tree.domains)


def prompt_name(name: str) -> str:
    """A folder's name as the prompt says it.

    Example:
        >>> prompt_name("house_plant")
        'house plant'
    """
    return name.replace("_", " ")


def files_digest(entries: Iterable[Entry]) -> str:
    """SHA-256 over class, name and size of files: other files give another, a moved folder the same."""
    lines = [f"{e.name}/{e.file.name} {e.file.stat().st_size}\n" for e in entries]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _entries(domain: Path) -> tuple[Entry, ...]:
    return tuple(Entry(file, sub.name) for sub in _subfolders(domain) for file in _images(sub))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
