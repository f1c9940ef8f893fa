"""How a candidate is tried on live images before it may serve, as settings."""

from __future__ import annotations

from pydantic import Field

from adaptsvc.serve_section import Section


class ShadowSettings(Section):
    """What a candidate must show on live images; worker and service read the same."""

    fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the live images that a candidate answers too, unseen; 0 promotes at once.",
    )
    min_images: int = Field(
        500, ge=1, description="Images, of all service processes, on which a candidate is judged."
    )
    min_agreement: float = Field(
        0.8, ge=0, le=1, description="Least share of them that both versions give the same class."
    )
    max_confidence_shift: float = Field(
        0.2, ge=0, le=1, description="Farthest its mean confidence may be from the served one."
    )
    max_latency_ratio: float = Field(
        1.5,
        gt=0,
        description="Most time it may take for an image, against the version that serves.",
    )
    timeout_s: float = Field(
        3600.0, gt=0, description="A candidate that saw too few images by then is refused."
    )
    queue_images: int = Field(
        32, ge=1, description="Images that wait for the candidate, per process; more are dropped."
    )
