"""The section of the settings that says where spans go; it knows nothing of what makes them."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, field_validator

from adaptsvc.serve_section import Section


class TracingSettings(Section):
    """Whether anything is traced, and how much."""

    endpoint: str = Field(
        "", description="Of a collector (OTLP over HTTP), `http://HOST:4318`; empty traces nothing."
    )
    sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the requests that are traced, where the caller does not say.",
    )
    queue_spans: int = Field(
        2048, ge=512, description="Spans that wait to be sent, per process; more are dropped."
    )
    timeout_s: float = Field(
        5.0, gt=0, le=60, description="Longest that one sending tries; no request waits for it."
    )
    flush_s: float = Field(
        2.0, ge=0, le=60, description="How long a stopping process still sends spans."
    )

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        if not endpoint:
            return endpoint
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ValueError("expected http://HOST:PORT or https://HOST:PORT")
        if parts.username or parts.password:
            raise ValueError("expected no credentials; use OTEL_EXPORTER_OTLP_HEADERS")
        return endpoint.rstrip("/")
