"""What the processes of an installation share, as the settings say: in files on one machine, or in Redis.

This is the one place that chooses; it knows nothing of what is done with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from adaptsvc.config import Settings
from adaptsvc.errors import ConfigError
from adaptsvc.metrics import Observer
from adaptsvc.sections import VersionsSettings
from adaptsvc.versions.board import Board, FileBoard
from adaptsvc.versions.lease import FileLease, Lease
from adaptsvc.versions.pins import FilePins, Pins
from adaptsvc.versions.pointer import FilePointer, Pointer
from adaptsvc.versions.remembered import Remembered
from adaptsvc.versions.reports import FileReports
from adaptsvc.versions.seal import Seal
from adaptsvc.versions.shadow_desk import ShadowDesk
from adaptsvc.versions.shared import SharedStore
from adaptsvc.versions.store import Store, VersionStore
from adaptsvc.versions.tasks import FileTasks, Tasks


@dataclass(frozen=True, slots=True)
class State:
    """The shared state.

    Attributes:
        store: versions and bases.
        pointer: which version serves.
        lasting: the pointer as a service follows it: it says what it said last while it cannot be asked.
        pins: which versions people keep.
        tasks: which classes people ask for.
        lease: the right to write, not taken yet.
        board: what the worker says of drift.
        shadow: what is known of candidates that are tried on live images.
        watch: has a function called when the pointer moved, and returns what ends that. Nothing may come:
            whoever watches polls as well.
    """

    store: Store
    pointer: Pointer
    lasting: Pointer
    pins: Pins
    tasks: Tasks
    lease: Lease
    board: Board
    shadow: ShadowDesk
    watch: Callable[[Callable[[], None]], Callable[[], None]]


def open_state(
    settings: Settings, observer: Observer | None = None, *, fenced: bool = False
) -> State:
    """The shared state of these settings; nobody is asked anything yet.

    Args:
        settings: of this process.
        observer: told when it goes and comes back.
        fenced: a worker's: promoting and publishing need the lease. A person's do not.

    Raises:
        ConfigError: the settings contradict one another, or the Redis client is not installed.
    """
    if settings.state.kind == "redis":
        return _in_redis(settings, observer or Observer(), fenced=fenced)
    return _in_files(settings, fenced=fenced)


def _in_files(settings: Settings, *, fenced: bool) -> State:
    lease = FileLease(settings.lease)
    fence = lease.check if fenced else _allow
    store = VersionStore(settings.store, fence=fence, seal=seal_of(settings.versions))
    pointer = FilePointer(settings.pointer, fence=fence)
    tasks, board = FileTasks(settings.tasks, fence=fence), FileBoard(settings.board)
    pins = FilePins(settings.pins)
    shadow = ShadowDesk(FileBoard(settings.shadow_board), FileReports(settings.shadow_reports))
    return State(store, pointer, pointer, pins, tasks, lease, board, shadow, _never)


def _in_redis(settings: Settings, observer: Observer, *, fenced: bool) -> State:
    try:  # the client is an extra, and takes half a second to load
        from adaptsvc.redis.board import SHADOW, RedisBoard
        from adaptsvc.redis.depot import RedisDepot
        from adaptsvc.redis.lease import NoLease, RedisLease
        from adaptsvc.redis.link import Link
        from adaptsvc.redis.notices import Notices
        from adaptsvc.redis.pins import RedisPins
        from adaptsvc.redis.pointer import RedisPointer
        from adaptsvc.redis.reports import RedisReports
        from adaptsvc.redis.tasks import RedisTasks
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"state.kind is 'redis', but {exc.name} is not installed; "
            "run pip install 'adaptsvc[redis]', or set state.kind to 'file'"
        ) from exc
    link = Link(settings.state, heard=observer.state_reached)
    lease = RedisLease(link, settings.state.lease_s)
    fence = lease if fenced else NoLease(link)
    local = VersionStore(settings.store, seal=seal_of(settings.versions))
    store = SharedStore(local, RedisDepot(link, fence, settings.state))
    pointer = RedisPointer(link, fence)

    def watch(ring: Callable[[], None]) -> Callable[[], None]:
        return Notices(link, ring).close

    lasting = Remembered(pointer, settings.last_seen)
    tasks, board = RedisTasks(link, fence), RedisBoard(link, fence)
    shadow = ShadowDesk(RedisBoard(link, fence, SHADOW), RedisReports(link, fence))
    pins = RedisPins(link)
    return State(store, pointer, lasting, pins, tasks, lease, board, shadow, watch)


def seal_of(settings: VersionsSettings) -> Seal:
    """What signs and checks versions, with the keys of these settings.

    Raises:
        ConfigError: the file cannot be read, or a key is short.
    """
    try:
        keys = settings.keys()
    except (OSError, ValueError) as exc:
        raise ConfigError(f"the signing keys of versions cannot be used: {exc}") from exc
    return Seal([key.encode() for key in keys])


def _allow() -> None:
    return None


def _never(_ring: Callable[[], None]) -> Callable[[], None]:
    return _allow
