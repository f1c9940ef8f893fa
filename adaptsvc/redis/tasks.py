"""The classes that people ask for, in Redis: a hash, changed by Lua scripts. It knows nothing of versions."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast

from pydantic import ValidationError

from adaptsvc.errors import VersionCorruptError
from adaptsvc.redis.lease import FENCE, LOST, Fence
from adaptsvc.redis.link import Link
from adaptsvc.types import Task
from adaptsvc.versions.lease import lost
from adaptsvc.versions.tasks import Asked, TaskOutcome, TaskRequest, corrupt

# KEYS: requests. ARGV: the task, the time.
ASK = """
local last = redis.call('HGET', KEYS[1], 'id') or '0'
if redis.call('HGET', KEYS[1], 'answered') ~= last and redis.call('HGET', KEYS[1], 'task') == ARGV[1] then
    return {last, redis.call('HGET', KEYS[1], 'at')}
end
if not string.match(last, '^%d+$') then last = redis.call('TIME')[1] end  -- above any number so far
last = string.format('%d', tonumber(last) + 1)
redis.call('HSET', KEYS[1], 'id', last, 'task', ARGV[1], 'at', ARGV[2])
return {last, ARGV[2]}
"""
# KEYS: lease, requests. ARGV: fence, then names and values.
NOTE = (
    FENCE
    + """
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
return {'done'}
"""
)


class RedisTasks:
    """The requests; the methods are those of `adaptsvc.versions.tasks.Tasks`.

    Args:
        link: to Redis.
        fence: what answers show.
        clock: for the time of a request.
    """

    def __init__(
        self,
        link: Link,
        fence: Fence,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._link = link
        self._fence = fence
        self._clock = clock
        self._key = link.key("classes")

    def read(self) -> Asked:
        """See `Tasks`."""
        found = cast(
            "dict[bytes, bytes]", self._link.call(lambda client: client.hgetall(self._key))
        )
        fields = {name.decode(errors="replace"): value for name, value in found.items()}
        try:
            request = None
            if "id" in fields:
                task = json.loads(fields.get("task", b""))
                request = TaskRequest.model_validate(
                    {**task, "id": int(fields["id"]), "at": fields.get("at", b"").decode()}
                )
            outcome = None
            if "outcome" in fields:
                outcome = TaskOutcome.model_validate_json(fields["outcome"])
            configured = fields.get("configured", b"").decode()
            return Asked(request=request, outcome=outcome, configured=configured)
        except (ValidationError, ValueError, TypeError) as exc:
            where = f"{self._key} in Redis at {self._link.where}"
            raise corrupt(b" ".join(fields.values()), where) from exc

    def ask(self, task: Task) -> TaskRequest:
        """See `Tasks`; what cannot be read is begun anew."""
        try:
            self.read()
        except VersionCorruptError:
            self._link.call(
                lambda client: client.hdel(self._key, "outcome", "answered", "configured")
            )
        content = json.dumps({"classes": task.classes, "prompt": task.prompt})
        number, at = self._link.run(ASK, [self._key], [content, self._clock().isoformat()])
        return TaskRequest(
            id=int(number),
            classes=task.classes,
            prompt=task.prompt,
            at=datetime.fromisoformat(at.decode()),
        )

    def answer(self, outcome: TaskOutcome) -> None:
        """See `Tasks`."""
        self._note(outcome=outcome.model_dump_json(), answered=str(outcome.request))

    def note_configured(self, digest: str) -> None:
        """See `Tasks`."""
        self._note(configured=digest)

    def _note(self, **fields: str) -> None:
        keys = [self._fence.key, self._key]
        values = [part for pair in fields.items() for part in pair]
        done = self._link.run(NOTE, keys, [self._fence.fence, *values])[0]
        if done == LOST:
            raise lost(self._fence.token, f"the one in Redis at {self._link.where}")
