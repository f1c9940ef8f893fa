"""Asking a running service from Python: `Client`, and `AsyncClient` for asyncio.

Needs httpx and pydantic; it knows nothing of models.

    with Client("http://localhost:3000") as client:
        print(client.classify(Path("photo.jpg")).results[0])
"""

from adaptsvc.client.answers import (
    Classified,
    Embedded,
    Embedding,
    Image,
    Result,
    Score,
    Serving,
    Source,
)
from adaptsvc.client.asking import AsyncClient, Client
from adaptsvc.client.calls import Options
from adaptsvc.client.reports import (
    Activated,
    Classes,
    ClassesAsked,
    Difference,
    Drift,
    History,
    Version,
    VersionDetail,
)

__all__ = [
    "Activated",
    "AsyncClient",
    "Classes",
    "ClassesAsked",
    "Classified",
    "Client",
    "Difference",
    "Drift",
    "Embedded",
    "Embedding",
    "History",
    "Image",
    "Options",
    "Result",
    "Score",
    "Serving",
    "Source",
    "Version",
    "VersionDetail",
]
