"""What a Kafka cluster is reached and read with, checked. Knows nothing of any Kafka client."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """A cluster and how to use it.

    Attributes:
        servers: some of the brokers, each as ``host:port``; they name the others.
        security: TLS where it says SSL, a password where it says SASL.
        mechanism: how the password is proved.
        username: for SASL.
        password: for SASL.
        ca_file: certificates in PEM that the brokers' are checked against; None takes the system's.
        certificate_file: this client's certificate in PEM, where brokers ask for one.
        key_file: its private key in PEM.
        compression: of what is appended; images are compressed already.
        request_timeout_s: longest wait for an answer; an append may take twice as long.
        session_timeout_s: a process silent for so long loses its partitions.
        heartbeat_interval_s: between signs of life; a change of the group is met as late as this.
        max_poll_interval_s: a consumer neither polled nor told `heartbeat` for so long leaves.
        step_budget_s: longest time the caller means to stay away; longer ones are warned of.
        fetch_bytes: most that one fetch brings, but for a single larger message.
        replication_factor: copies of new topics; -1 leaves it to the cluster.

    Raises:
        ValueError: the values contradict each other.
    """

    servers: tuple[str, ...] = ("127.0.0.1:9092",)
    security: Security = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    compression: Compression = "none"
    request_timeout_s: float = 15.0
    session_timeout_s: float = 30.0
    heartbeat_interval_s: float = 3.0
    max_poll_interval_s: float = 300.0
    step_budget_s: float = 120.0
    fetch_bytes: int = 32 * 2**20
    replication_factor: int = -1

    def __post_init__(self) -> None:
        _check_servers(self.servers)
        if "SASL" in self.security and not (self.username and self.password):
            raise ValueError(
                f"security is {self.security!r} without username and password; set both, or use "
                "PLAINTEXT or SSL"
            )
        if not 0 < self.heartbeat_interval_s <= self.session_timeout_s / 3:
            raise ValueError(
                f"heartbeat_interval_s is {self.heartbeat_interval_s:g}; expected more than 0 and at "
                f"most a third of session_timeout_s ({self.session_timeout_s:g})"
            )
        if not 0 < self.step_budget_s < self.max_poll_interval_s:
            raise ValueError(
                f"step_budget_s is {self.step_budget_s:g}; expected more than 0 and less than "
                f"max_poll_interval_s ({self.max_poll_interval_s:g}): raise that one, or take "
                "shorter steps"
            )

    @property
    def where(self) -> str:
        """The cluster, for messages."""
        return "kafka://" + ",".join(self.servers)


def _check_servers(servers: tuple[str, ...]) -> None:
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"server is {server!r}; expected host:port; correct servers")
    if not servers:
        raise ValueError("servers is empty; expected at least one host:port")
