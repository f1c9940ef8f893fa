"""Schemas of custom resources, from the typed models on PyPI: `python -m tests.deploy.schemas.make`.

They are kept here because loading the models takes seconds of CPU time, and because a model lets unknown
fields pass; here a field that is in no schema is an error. Needs the extra `schemas`. Strimzi's are in
nobody's package: strimzi.json is written by hand from the reference of `kafka.strimzi.io/v1`, and knows only
what we use.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

KEEP = ("anyOf", "const", "enum", "items", "type", "$ref", "required", "additionalProperties")
SOURCES = {
    "cloudcoil.models.keda.v1alpha1": ("ScaledObject", "TriggerAuthentication"),
    "cloudcoil.models.prometheus_operator.v1": ("PodMonitor", "PrometheusRule"),
}


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without its prose, that refuses unknown fields.

    >>> strict({"title": "A", "type": "object", "properties": {"b": {"type": "string", "default": ""}}})
    {'type': 'object', 'properties': {'b': {'type': 'string'}}, 'additionalProperties': False}
    """
    kept = {key: _inner(value) for key, value in schema.items() if key in KEEP}
    if properties := schema.get("properties"):
        kept["properties"] = {
            name: strict(each) for name, each in properties.items() if name != "status"
        }
        kept["additionalProperties"] = False
    if definitions := schema.get("$defs"):
        kept["$defs"] = {name: strict(each) for name, each in definitions.items()}
    return kept


def _inner(value: Any) -> Any:
    if isinstance(value, list):
        return [_inner(each) for each in value]
    return strict(value) if isinstance(value, dict) else value


def main() -> None:
    """Write each source's schemas beside this file."""
    for module, kinds in SOURCES.items():
        models = __import__(module, fromlist=kinds)
        package = module.rpartition(".")[0].replace(".", "-").replace("_", "-")
        schemas = {kind: strict(getattr(models, kind).model_json_schema()) for kind in kinds}
        made = {"source": f"{package} {version(package)}, Apache-2.0", "kinds": schemas}
        name = package.rpartition("models-")[2] + ".json"
        text = json.dumps(made, indent=1, sort_keys=True) + "\n"
        Path(__file__).with_name(name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
