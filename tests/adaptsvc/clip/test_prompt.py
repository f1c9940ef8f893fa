"""Class names to class embeddings: at the start CLIP's own, and learned in the context alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.prompt import TEXT_BATCH, Prompt, class_embeddings
from adaptsvc.errors import ModelError
from tests.conftest import VIT, write_tiny

NAMES = ("cat", "fire engine", "Škoda")
TEMPLATE = "a photo of a {}."


@pytest.fixture(scope="module", params=["open_clip's CLIP", "open_clip's CustomTextCLIP"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    custom = "Custom" in request.param
    directory = write_tiny(tmp_path_factory.mktemp("text"), VIT, custom_text=custom)
    return load(f"local-dir:{directory}")


@pytest.fixture
def clip(loaded: Clip) -> Iterator[Clip]:
    """Every test leaves the text tower without hooks."""
    yield loaded
    assert not hooks(loaded)


def hooks(clip: Clip) -> list[Any]:
    return [hook for module in clip.model.modules() for hook in module._forward_hooks.values()]


def encode(clip: Clip, texts: list[str]) -> torch.Tensor:
    """The plain twin: the text tower on the filled templates."""
    with torch.no_grad():
        embeddings: torch.Tensor = clip.model.encode_text(clip.tokenizer(texts), normalize=True)
        return embeddings


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to rounding: the padding left out changes the order of sums."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "template",
    [TEMPLATE, "itap of my {}", "a bad, blurry picture of the {}!", "graffiti: {}", "photo-{}"],
)
def test_at_the_start_the_embeddings_are_clips_own(clip: Clip, template: str) -> None:
    expected = encode(clip, [template.format(name) for name in NAMES])
    assert_close(Prompt(clip, NAMES, template)(), expected)
    assert_close(class_embeddings(clip, NAMES, template), expected)


def test_names_that_start_alike_do_not_lengthen_the_context(clip: Clip) -> None:
    names = ("red car", "red cat")
    prompt = Prompt(clip, names, TEMPLATE)
    assert prompt.context.shape == (4, 32)  # a, photo, of, a
    assert_close(prompt(), encode(clip, [TEMPLATE.format(name) for name in names]))


def test_embeddings_have_length_one_whatever_the_context(clip: Clip) -> None:
    prompt = Prompt(clip, NAMES, TEMPLATE)
    with torch.no_grad():
        prompt.context.add_(torch.randn(4, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(prompt().norm(dim=-1), torch.ones(3))
    assert not torch.allclose(prompt(), class_embeddings(clip, NAMES, TEMPLATE), atol=1e-2)


def test_another_templates_context_gives_that_templates_embeddings(clip: Clip) -> None:
    prompt, other = Prompt(clip, NAMES, TEMPLATE), Prompt(clip, NAMES, "the photo of my {}.")
    with torch.no_grad():
        prompt.context.copy_(other.context)
    assert torch.equal(prompt(), other())


def test_the_gradient_reaches_the_context_and_nothing_else(clip: Clip) -> None:
    prompt = Prompt(clip, NAMES, TEMPLATE)
    assert [name for name, _ in prompt.named_parameters()] == ["context"]
    prompt()[0, 0].backward()
    assert prompt.context.grad is not None
    assert (prompt.context.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in clip.model.parameters())


def test_the_gradient_of_the_context_is_that_of_the_function(clip: Clip) -> None:
    prompt = Prompt(clip, NAMES, TEMPLATE)
    direction = torch.randn(prompt.context.shape, generator=torch.Generator().manual_seed(0))
    target = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))

    def value(step: float) -> float:
        with torch.no_grad():
            prompt.context.copy_(start + step * direction)
            return float((prompt().double() * target).sum())

    start = prompt.context.detach().clone()
    (prompt() * target).sum().backward()
    assert prompt.context.grad is not None
    slope = float((prompt.context.grad * direction).sum())
    assert slope == pytest.approx((value(2e-3) - value(-2e-3)) / 4e-3, rel=1e-2)


def test_the_text_tower_is_left_as_it_was(clip: Clip) -> None:
    before = encode(clip, ["a photo of a cat."])
    prompt = Prompt(clip, NAMES, TEMPLATE)
    with torch.no_grad():
        prompt.context.zero_()
    prompt()
    assert torch.equal(encode(clip, ["a photo of a cat."]), before)


def test_the_hook_goes_even_when_the_text_tower_raises(
    clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = Prompt(clip, NAMES, TEMPLATE)
    seen: list[int] = []

    def fail(_model: object, _tokens: torch.Tensor) -> None:
        seen.append(len(hooks(clip)))
        raise RuntimeError("out of memory")

    monkeypatch.setattr("adaptsvc.clip.prompt.encode_text", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        prompt()
    assert seen == [1]
    assert not hooks(clip)


def test_more_classes_than_a_batch_are_embedded_as_they_would_be_at_once(clip: Clip) -> None:
    names = [f"thing {number}" for number in range(TEXT_BATCH + 4)]
    expected = encode(clip, [TEMPLATE.format(name) for name in names])
    torch.testing.assert_close(class_embeddings(clip, names, TEMPLATE), expected)


@pytest.mark.parametrize(
    "template", ["a photo", "a {} of a {}", "a photo of a {0}", "a {name}", "a {{}} {}", "a {} }"]
)
def test_a_template_without_exactly_one_gap_is_refused_by_name(clip: Clip, template: str) -> None:
    with pytest.raises(ModelError) as refused:
        Prompt(clip, NAMES, template)
    assert repr(template) in str(refused.value)


@pytest.mark.parametrize("template", ["{} in a photo", " {}"])
def test_a_template_without_words_before_the_gap_is_refused(clip: Clip, template: str) -> None:
    with pytest.raises(ModelError, match="at least one word before"):
        Prompt(clip, NAMES, template)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("cat", "dog", "cat", "dog", "car"), r"repeated: \['cat', 'dog'\]"),
        (("cat", "", "  "), "2 of them empty"),
        (("cat",), "at least 2"),
        ((), "at least 2"),
    ],
)
def test_names_must_be_two_or_more_and_different(
    clip: Clip, names: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ModelError, match=said):
        Prompt(clip, names, TEMPLATE)


def test_a_text_too_long_is_refused_by_name_and_the_longest_that_fits_is_not(clip: Clip) -> None:
    fits = " ".join(["cat"] * 25)  # and: start, a photo of a, the stop, end
    Prompt(clip, ("dog", fits), TEMPLATE)
    with pytest.raises(ModelError, match=f"'a photo of a {fits} cat.' has 33 tokens, .* takes 32"):
        Prompt(clip, ("dog", f"{fits} cat"), TEMPLATE)
