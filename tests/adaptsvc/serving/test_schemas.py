"""Claims about what is read of a body."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from adaptsvc.serving.schemas import ImagesBody
from adaptsvc.serving.tensors import InferBody


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ImagesBody, b'{"images": [0, 0, 0, 0]}'),
        (InferBody, b'{"inputs": [0, 0, 0, 0]}'),
        (InferBody, b'{"inputs": [], "outputs": [0, 0, 0, 0]}'),
    ],
)
def test_of_many_wrong_elements_the_first_is_noted(kind: type[BaseModel], data: bytes) -> None:
    """A kilobyte of memory for each came to gigabytes a request."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate_json(data)
    assert sum(isinstance(each["loc"][-1], int) for each in caught.value.errors()) == 1
