"""Claims about the settings of a cluster, and what the client is told."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from streams import KafkaSettings
from streams.kafka_client import client_options, message_of


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"servers": ()}, "at least one host:port"),
        ({"servers": ("kafka",)}, "server is 'kafka'; expected host:port"),
        ({"servers": ("kafka:port",)}, "expected host:port"),
        ({"security": "SASL_SSL", "username": "u"}, "without username and password"),
        ({"heartbeat_interval_s": 11.0}, "at most a third of session_timeout_s"),
        ({"step_budget_s": 300.0}, "less than max_poll_interval_s"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        KafkaSettings(**changes)  # type: ignore[arg-type]


def test_the_client_is_told_of_tls_and_the_password() -> None:
    settings = KafkaSettings(
        servers=("a:9093", "b:9093"),
        security="SASL_SSL",
        mechanism="SCRAM-SHA-256",
        username="worker",
        password="secret",
        ca_file=Path("/ca.pem"),
        certificate_file=Path("/cert.pem"),
        key_file=Path("/key.pem"),
    )
    options = client_options(settings)
    assert options["bootstrap_servers"] == ["a:9093", "b:9093"]
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_mechanism"] == "SCRAM-SHA-256"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("worker", "secret")
    assert options["ssl_cafile"] == "/ca.pem"
    assert (options["ssl_certfile"], options["ssl_keyfile"]) == ("/cert.pem", "/key.pem")


def test_a_plain_cluster_is_told_of_neither() -> None:
    assert not {key for key in client_options(KafkaSettings()) if key.startswith(("ssl", "sasl"))}


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(KafkaSettings(password="secret"))


def test_what_a_record_lacks_is_empty_in_its_message() -> None:
    record = SimpleNamespace(
        topic="t",
        partition=1,
        offset=2,
        key=None,
        value=None,
        headers=[("h", None)],
        timestamp=3500,
    )
    message = message_of(record)
    assert (message.key, message.value, message.headers) == ("", b"", {"h": b""})
    assert message.timestamp_s == 3.5
