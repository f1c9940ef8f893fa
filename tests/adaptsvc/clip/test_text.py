"""The text tower on the tokens there are: the same embeddings, and only where that is sure."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.text import encode_text
from tests.conftest import TEXT, VIT, write_tiny

TEXTS = ["cat", "a photo of a fire engine.", "x"]
LONGEST = 8  # start, a, photo, of, a, fire, engine, dot; the end comes after
OTHERS: dict[str, dict[str, Any]] = {
    "looks both ways": {"text_cfg": {**TEXT, "no_causal_mask": True}},
    "with a class token": {"text_cfg": {**TEXT, "embed_cls": True}, "custom_text": True},
    "takes the last token": {"text_cfg": {**TEXT, "pool_type": "last"}},
}


@pytest.fixture
def clip(request: pytest.FixtureRequest, tmp_path: Any) -> Clip:
    return load(f"local-dir:{write_tiny(tmp_path, VIT, **request.param)}")


def lengths(clip: Clip) -> list[int]:
    """How many tokens the word embeddings are asked for, call by call."""
    holder = clip.model if hasattr(clip.model, "token_embedding") else clip.model.text
    seen: list[int] = []
    holder.token_embedding.register_forward_hook(lambda _m, i, _o: seen.append(i[0].shape[1]))
    return seen


CAUSAL: list[dict[str, Any]] = [{}, {"custom_text": True}]


@pytest.mark.parametrize("clip", CAUSAL, indirect=True, ids=["CLIP", "CustomTextCLIP"])
def test_a_causal_tower_reads_no_padding_and_says_the_same(clip: Clip) -> None:
    tokens, seen = clip.tokenizer(TEXTS), lengths(clip)
    expected = clip.model.encode_text(tokens)
    found = encode_text(clip.model, tokens)
    assert seen == [tokens.shape[1], LONGEST + 1]
    cosines = torch.nn.functional.cosine_similarity(found, expected)
    assert (cosines > 1 - 1e-6).all()


@pytest.mark.parametrize("clip", CAUSAL[:1], indirect=True)
def test_a_model_that_answers_by_name_is_understood(clip: Clip) -> None:
    tokens = clip.tokenizer(TEXTS)
    clip.model.output_dict = True
    found, expected = encode_text(clip.model, tokens), clip.model.encode_text(tokens)
    assert (torch.nn.functional.cosine_similarity(found, expected) > 1 - 1e-6).all()


@pytest.mark.parametrize("clip", CAUSAL[1:], indirect=True)
def test_a_tower_that_returns_its_tokens_too_is_understood(clip: Clip) -> None:
    tokens = clip.tokenizer(TEXTS)
    expected = clip.model.encode_text(tokens)
    clip.model.text.output_tokens = True
    found = encode_text(clip.model, tokens)
    assert (torch.nn.functional.cosine_similarity(found, expected) > 1 - 1e-6).all()


@pytest.mark.parametrize("clip", OTHERS.values(), indirect=True, ids=OTHERS.keys())
def test_any_other_tower_gets_all_of_its_tokens(clip: Clip) -> None:
    tokens, seen = clip.tokenizer(TEXTS), lengths(clip)
    assert torch.equal(encode_text(clip.model, tokens), clip.model.encode_text(tokens))
    assert seen == [tokens.shape[1]] * 2


def test_a_text_as_long_as_the_context_is_encoded_as_it_is(tmp_path: Any) -> None:
    clip = load(f"local-dir:{write_tiny(tmp_path, VIT)}")
    tokens = clip.tokenizer(["x " * 100])
    assert torch.equal(encode_text(clip.model, tokens), clip.model.encode_text(tokens))
