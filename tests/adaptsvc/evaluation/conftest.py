"""Generated image trees, and the tiny CLIP on the bench."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from adaptsvc.config import Settings
from adaptsvc.evaluation.data import Tree, read_tree
from adaptsvc.evaluation.plan import Request
from adaptsvc.evaluation.split import SETTINGS

if TYPE_CHECKING:
    from adaptsvc.evaluation.bench import Bench

KNOWN = ("cat", "dog", "car")
OTHERS = ("bird", "fish")
MakeTree: TypeAlias = Callable[..., Tree]


@pytest.fixture
def make_tree(tmp_path: Path, png: Callable[[int], bytes]) -> MakeTree:
    """`make_tree(domains, {class: images})`: a tree of generated pictures; no domains, no such level."""

    def make(
        domains: Sequence[str] = ("photo", "sketch"),
        classes: Mapping[str, int] = dict.fromkeys((*KNOWN, *OTHERS), 4),
    ) -> Tree:
        root, seed = tmp_path / "data", 0
        for domain in domains or ("",):
            for name, images in classes.items():
                folder = root / domain / name
                folder.mkdir(parents=True)
                for number in range(images):
                    (folder / f"{number}.png").write_bytes(png(seed))
                    seed += 1
        return read_tree(root)

    return make


@pytest.fixture
def request_for(tmp_path: Path) -> Callable[..., Request]:
    """`request_for(tree, methods=..., ...)`: a small request into tmp_path/out."""

    def make(tree: Tree, **changes: Any) -> Request:
        values: dict[str, Any] = {
            "tree": tree,
            "known": KNOWN,
            "extra": (),
            "domains": tuple(tree.domains),
            "methods": ("zero-shot", "ueo"),
            "settings": SETTINGS,
            "seeds": (0,),
            "guard": False,
            "out": tmp_path / "out",
        }
        return Request(**{**values, **changes})

    return make


@pytest.fixture
def eval_settings(
    tiny_vit_directory: Path,
    tiny_home: Callable[[Path], Path],
    tiny_settings: Callable[..., Settings],
) -> Callable[..., Settings]:
    """`eval_settings(learn={...}, **others)`: tiny, its base exported already."""

    def make(**overrides: Any) -> Settings:
        settings = tiny_settings(tiny_vit_directory, **overrides)
        if not settings.home.exists():
            shutil.copytree(tiny_home(tiny_vit_directory), settings.home)
        return settings

    return make


@pytest.fixture
def make_bench(eval_settings: Callable[..., Settings]) -> Callable[..., Bench]:
    """`make_bench(**settings)`: the tiny CLIP, loaded."""

    def make(**overrides: Any) -> Bench:
        from adaptsvc.evaluation.bench import Bench

        return Bench.load(eval_settings(**overrides))

    return make
