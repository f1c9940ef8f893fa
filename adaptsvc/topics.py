"""The commands `topics create` and `topics check`. It knows nothing of what the topics carry."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from adaptsvc import config
from adaptsvc.errors import ConfigError
from adaptsvc.streaming import missing_client
from streams.kafka_settings import KafkaSettings
from streams.topics import load_topics

FAILED = 1
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]

app = typer.Typer(no_args_is_help=True, help="The topics of the Kafka cluster.")


@app.command(epilog="Example: ADAPTSVC_STREAM__KIND=kafka adaptsvc topics create")
def create(as_json: AsJson = False) -> None:
    """Make the topics of streams/topics.yaml that the cluster lacks; those it has stay as they are."""
    cluster, topics = _cluster(), load_topics()
    try:
        from streams.kafka_admin import create_topics  # loads the Kafka client
    except ModuleNotFoundError as exc:
        raise missing_client(exc) from exc
    made = create_topics(cluster, topics)
    if as_json:
        typer.echo(json.dumps({"created": made}))
        return
    for name in sorted(topics.specs):
        typer.echo(f"{name}: {'created' if name in made else 'was there'}")


@app.command(epilog="Example: ADAPTSVC_STREAM__KIND=kafka adaptsvc topics check --json")
def check(as_json: AsJson = False) -> None:
    """Compare the cluster with streams/topics.yaml; ends with 1 where they differ."""
    cluster, topics = _cluster(), load_topics()
    try:
        from streams.kafka_admin import check_topics  # loads the Kafka client
    except ModuleNotFoundError as exc:
        raise missing_client(exc) from exc
    differences = check_topics(cluster, topics)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in differences], indent=1))
    elif not differences:
        typer.echo(f"{cluster.where} has {', '.join(sorted(topics.specs))} as they should be")
    else:
        typer.echo("\n".join(map(str, differences)))
    if differences:
        raise typer.Exit(FAILED)


def _cluster() -> KafkaSettings:
    settings = config.read()
    if settings.stream.kind != "kafka":
        raise ConfigError(
            f"stream.kind is {settings.stream.kind!r}, whose file makes its topics by itself; set "
            "ADAPTSVC_STREAM__KIND=kafka to look after those of a cluster"
        )
    return settings.stream.cluster()
