"""The bundled CLIP: an open_clip model directory, and where it lies. Knows nothing of how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent
DIGESTS: Final = {
    "open_clip_config.json": "6846f0d048f361d24b892f2a24bd91639e335f0c864902397c3e877d1c58051d",
    "open_clip_model.safetensors": "cd46d7ff2611eb3698f036c1565e4dd6cee7960567e2643eb25f1220b7605782",
}
