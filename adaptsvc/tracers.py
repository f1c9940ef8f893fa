"""The tracer that the settings ask for. This is the one place that chooses; OpenTelemetry is an extra."""

from __future__ import annotations

from importlib.util import find_spec

from adaptsvc.errors import ConfigError
from adaptsvc.tracing import OFF, Tracer
from adaptsvc.tracing_section import TracingSettings

SERVICE, WORKER, REPLAY = "adaptsvc-service", "adaptsvc-worker", "adaptsvc-replay"
EXPORTER = "opentelemetry.exporter.otlp.proto.http"


def open_tracer(settings: TracingSettings, service: str, *, sample_ratio: float = 1.0) -> Tracer:
    """A tracer; where no endpoint is set, one that does nothing, and OpenTelemetry is not loaded.

    Args:
        settings: of this process.
        service: the name of this process among others.
        sample_ratio: share of the traces that are kept, where whoever called does not say.

    Raises:
        ConfigError: the extra `tracing` is not installed.
    """
    check_tracing(settings)
    if not settings.endpoint:
        return OFF
    from adaptsvc.opentelemetry import sending_tracer  # takes a third of a second to load

    return sending_tracer(settings, service, sample_ratio=sample_ratio)


def check_tracing(settings: TracingSettings) -> None:
    """Refuse to trace without what sends spans.

    Raises:
        ConfigError: the extra `tracing` is not installed.
    """
    if settings.endpoint and not _is_installed():
        raise ConfigError(
            "tracing.endpoint is set, but opentelemetry-exporter-otlp-proto-http is not installed; "
            "run pip install 'adaptsvc[tracing]', or leave tracing.endpoint empty"
        )


def _is_installed() -> bool:
    try:
        return find_spec(EXPORTER) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False
