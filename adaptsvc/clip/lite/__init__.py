"""The bundled CLIP: an open_clip model directory, and where it lies. Knows nothing of how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent
