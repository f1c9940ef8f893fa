"""The contract suites and what keeps them, as the table of docs/operations.md.

`python -m tests.contracts` prints it. Knows nothing of what the claims say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module


@dataclass(frozen=True, slots=True)
class Suite:
    """A contract and its implementations.

    Attributes:
        name: of what is promised.
        contract: module and class of the claims.
        kept_by: the test classes of each implementation, or why the claims do not apply to it.
    """

    name: str
    contract: str
    kept_by: Mapping[str, str]


IN_MEMORY = "it is gone with its process"
LOGS = {
    "memory": "tests.streams.test_log:TestMemoryLog",
    "SQLite": "tests.streams.test_sqlite:TestSqliteLog",
    "Kafka": "tests.streams.test_kafka:TestKafkaLog",
}
STATE = "tests.adaptsvc"
SUITES = (
    Suite("Log", "tests.streams.contract:LogContract", LOGS),
    Suite(
        "Log that outlives its process",
        "tests.streams.contract_durable:DurableContract",
        {**LOGS, "memory": IN_MEMORY},
    ),
    Suite(
        "Pointer",
        f"{STATE}.versions.contract_pointer:PointerContract",
        {
            "file": f"{STATE}.versions.test_pointer:TestFilePointer",
            "Redis": f"{STATE}.redis.test_pointer:TestRedisPointer",
        },
    ),
    Suite(
        "Store of versions",
        f"{STATE}.versions.contract_store:StoreContract",
        {
            "file": f"{STATE}.versions.test_store:TestVersionStore",
            "Redis": f"{STATE}.redis.test_store:TestSharedStore",
        },
    ),
    Suite(
        "Pins",
        f"{STATE}.versions.contract_pins:PinsContract",
        {
            "file": f"{STATE}.versions.test_pins:TestFilePins",
            "Redis": f"{STATE}.redis.test_pins:TestRedisPins",
        },
    ),
    Suite(
        "Classes asked for",
        f"{STATE}.versions.contract_tasks:TasksContract",
        {
            "file": f"{STATE}.versions.test_tasks:TestFileTasks",
            "Redis": f"{STATE}.redis.test_tasks:TestRedisTasks",
        },
    ),
    Suite(
        "Board of the worker",
        f"{STATE}.versions.contract_board:BoardContract",
        {
            "file": f"{STATE}.versions.test_board:TestFileBoard",
            "Redis": f"{STATE}.redis.test_board:TestRedisBoard",
        },
    ),
    Suite(
        "Reports of the service",
        f"{STATE}.versions.contract_reports:ReportsContract",
        {
            "file": f"{STATE}.versions.test_reports:TestFileReports",
            "Redis": f"{STATE}.redis.test_reports:TestRedisReports",
        },
    ),
    Suite(
        "Lease",
        f"{STATE}.versions.contract_lease:LeaseContract",
        {
            "file": f"{STATE}.versions.test_lease:TestFileLease",
            "Redis": f"{STATE}.redis.test_lease:TestRedisLease",
        },
    ),
)


def tables() -> str:
    """Every suite's claims by implementation, in Markdown."""
    return "\n\n".join("\n".join(_table(suite)) for suite in SUITES)


def _table(suite: Suite) -> Iterator[str]:
    contract = _class(suite.contract)
    yield f"| {suite.name} | {' | '.join(suite.kept_by)} |"
    yield "|---" * (1 + len(suite.kept_by)) + "|"
    for name in [name for name in vars(contract) if name.startswith("test_")]:
        cells = [_cell(name, contract, each) for each in suite.kept_by.values()]
        yield f"| {name.removeprefix('test_').replace('_', ' ')} | {' | '.join(cells)} |"


def _cell(name: str, contract: type, kept_by: str) -> str:
    """`yes` where the claim is tested as it stands, else why not."""
    if ":" not in kept_by:
        return f"n/a: {kept_by}"
    found = _class(kept_by)
    if not issubclass(found, contract) or getattr(found, name) is not vars(contract)[name]:
        raise TypeError(f"{kept_by} does not test {name} as {contract.__name__} says it")
    return "yes"


def _class(path: str) -> type:
    module, _, name = path.partition(":")
    found: type = getattr(import_module(module), name)
    return found


if __name__ == "__main__":
    sys.stdout.write(tables() + "\n")
