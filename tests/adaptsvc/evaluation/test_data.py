"""Claims about reading a tree of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.data import (
    choose_domains,
    choose_known,
    files_digest,
    read_extra,
    read_tree,
)
from tests.adaptsvc.evaluation.conftest import MakeTree


def test_the_first_level_is_the_domain_and_the_second_the_class(make_tree: MakeTree) -> None:
    tree = make_tree(("photo", "sketch"), {"cat": 2, "dog": 1})
    assert {d: [e.name for e in entries] for d, entries in tree.domains.items()} == {
        "photo": ["cat", "cat", "dog"],
        "sketch": ["cat", "cat", "dog"],
    }


def test_classes_without_domains_are_one_domain_named_after_the_folder(make_tree: MakeTree) -> None:
    tree = make_tree((), {"cat": 1, "dog": 1})
    assert list(tree.domains) == ["data"]
    assert tree.classes == ("cat", "dog")


def test_hidden_folders_and_other_files_are_left_out(make_tree: MakeTree) -> None:
    root = make_tree((), {"cat": 1, "dog": 1, ".thumbnails": 3}).root
    (root / "cat" / "notes.txt").write_text("no image")
    assert [e.file.name for e in read_tree(root).domains["data"]] == ["0.png", "0.png"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is no folder; expected DIR/domain/class"):
        read_tree(tmp_path / "nowhere")


def test_two_layouts_in_one_folder_are_refused(make_tree: MakeTree) -> None:
    root = make_tree(("photo",)).root
    (root / "zebra").mkdir()
    (root / "zebra" / "0.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"zebra/ holds images itself, photo/ holds folders"):
        read_tree(root)


def test_fewer_than_two_classes_are_refused(make_tree: MakeTree) -> None:
    with pytest.raises(ConfigError, match="holds 1 classes with images, at least 2"):
        make_tree((), {"cat": 3})


@pytest.mark.parametrize(
    ("classes", "known"), [("ab", 2), ("abc", 2), ("abcde", 3), ("abcdefg", 4)]
)
def test_by_default_the_first_60_percent_of_the_alphabet_are_known(
    make_tree: MakeTree, classes: str, known: int
) -> None:
    tree = make_tree((), dict.fromkeys(reversed(classes), 1))
    assert choose_known(tree, ()) == tuple(classes[:known])


def test_the_order_of_known_is_as_asked(make_tree: MakeTree) -> None:
    assert choose_known(make_tree(), ("dog", "car")) == ("dog", "car")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("dog", "unicorn"), "names unicorn, which is no class of .* it has bird, car, cat"),
        (("dog",), "--known is dog; give at least 2"),
        (("dog", "dog"), "--known is dog,dog; give at least 2 different"),
    ],
)
def test_a_bad_list_of_known_classes_is_refused(
    make_tree: MakeTree, asked: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_known(make_tree(), asked)


def test_a_domain_that_is_not_there_is_named(make_tree: MakeTree) -> None:
    tree = make_tree()
    assert choose_domains(tree, ()) == ("photo", "sketch")
    with pytest.raises(ConfigError, match=r"names clay, .* it has photo, sketch"):
        choose_domains(tree, ("photo", "clay"))


def test_a_folder_of_unknown_images_may_be_nested_but_not_empty(make_tree: MakeTree) -> None:
    root = make_tree().root
    assert len(read_extra(root)) == 40
    (root / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty, which holds no images"):
        read_extra(root / "empty")


def test_the_digest_follows_the_files_and_not_the_place(make_tree: MakeTree) -> None:
    root = make_tree((), {"cat": 2, "dog": 1}).root
    before = files_digest(read_tree(root).domains["data"])
    moved = root.rename(root.with_name("moved"))
    assert files_digest(read_tree(moved).domains["moved"]) == before
    (moved / "cat" / "0.png").unlink()
    assert files_digest(read_tree(moved).domains["moved"]) != before
