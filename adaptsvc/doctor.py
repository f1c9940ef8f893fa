"""What will be used here, and why: one finding per thing, with what to do about it.

It knows nothing of printing. Nothing is made or changed; torch is loaded only where a GPU is asked for.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TypeAlias

from adaptsvc.clip import lite
from adaptsvc.config import CONFIG_FILE, PREFIX, Settings
from adaptsvc.cores import CGROUPS, OURS, container_limit, folders_of, usable_cores
from adaptsvc.errors import AdaptsvcError, ConfigError
from adaptsvc.processes import check_port
from adaptsvc.providers import try_provider
from adaptsvc.serving.door import check_exposure
from adaptsvc.serving.encoder import PROVIDERS
from adaptsvc.serving.keys import keys_of
from adaptsvc.state import open_state, seal_of
from adaptsvc.streaming import open_log
from streams.errors import StreamError

Level: TypeAlias = Literal["ok", "warning", "error"]
GIB = 2**30
LITTLE_DISK_BYTES, LITTLE_MEMORY_BYTES = GIB, GIB
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line.

    Attributes:
        name: of what was looked at.
        level: ``error``: it cannot work so; ``warning``: it works, and maybe not as you want.
        found: what is there, and why.
        advice: what to do; empty where nothing is.
    """

    name: str
    level: Level
    found: str
    advice: str = ""


Check: TypeAlias = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings, environment: Mapping[str, str]) -> list[Finding]:
    """Everything, from the settings up; a check that fails itself is an error of its own."""
    findings = [source_of(environment)]
    for check in CHECKS:
        try:
            findings.extend(check(settings))
        except Exception as exc:  # it is told as a finding, and the next check goes on
            name = check.__name__.replace("_", " ")
            findings.append(Finding(name, "error", f"{type(exc).__name__}: {exc}", "report this"))
    return findings


def source_of(environment: Mapping[str, str]) -> Finding:
    """Where the settings come from; names only, for a value may be secret."""
    names = sorted(n for n in environment if n.upper().startswith(PREFIX) and n != CONFIG_FILE)
    parts = [environment[CONFIG_FILE]] if environment.get(CONFIG_FILE) else []
    parts += [f"environment ({', '.join(names)})"] if names else []
    return Finding("settings", "ok", " over ".join([*reversed(parts), "defaults"]))


def python(_settings: Settings) -> Iterator[Finding]:
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    too_old = tuple(map(int, platform.python_version_tuple()[:2])) < OLDEST_PYTHON
    advice = "install Python 3.11 or newer" if too_old else ""
    yield Finding("python", "error" if too_old else "ok", found, advice)


def torch(settings: Settings) -> Iterator[Finding]:
    """The worker's library, asked for its version without loading it."""
    if not (found := installed("torch")):
        advice = "run pip install 'adaptsvc[learn]' where the worker runs; a service needs none"
        yield Finding("torch", "warning", "not installed", advice)
        return
    if settings.learn.device == "cpu":
        yield Finding("torch", "ok", f"{found}, on the CPU (learn.device is cpu)")
        return
    from torch import cuda  # seconds; only where it matters

    if cuda.is_available():
        yield Finding("torch", "ok", f"{found}, on {cuda.get_device_name()}")
    else:
        advice = "install a CUDA build of torch and the driver, or set learn.device to cpu"
        yield Finding("torch", "error", f"{found} sees no GPU; learn.device is cuda", advice)


def inference(settings: Settings) -> Iterator[Finding]:
    """ONNX Runtime, and the execution provider that will run."""
    serve = settings.serve
    yield Finding("onnxruntime", "ok", installed("onnxruntime-gpu") or installed("onnxruntime"))
    wanted, spare = PROVIDERS[serve.device], PROVIDERS["cpu"]
    tried = try_provider(wanted)
    others = ", ".join(name for name in tried.built_in if name != wanted) or "no other"
    if tried.runs:
        why = f"serve.device is {serve.device}; built in but not asked for: {others}"
        yield Finding("provider", "ok", f"{wanted}: {why}")
        if (serve.device, serve.precision) == ("cpu", "float16"):
            slow = "serve.precision is float16, which a CPU computes by way of float32, slower"
            yield Finding("precision", "warning", slow, "set serve.precision to float32")
        return
    missing = "; ".join(tried.why_not) or "ONNX Runtime does not say why"
    advice = "install what is missing (pip install 'adaptsvc[cuda]'), or set serve.device to cpu"
    if serve.fallback:
        found = f"{spare}, because {wanted} does not run: {missing}; serve.fallback allows it"
        yield Finding("provider", "warning", found, advice)
    else:
        yield Finding("provider", "error", f"{wanted} does not run: {missing}", advice)


def cores(settings: Settings) -> Iterator[Finding]:
    """Cores, and the threads that will share them."""
    usable, limit = usable_cores(), container_limit()
    allowed = "none" if limit == float("inf") else f"{limit:g} cores"
    affinity = len(os.sched_getaffinity(0))
    yield Finding(
        "cores",
        "ok",
        f"{usable} usable: machine {os.cpu_count()}, affinity {affinity}, container limit {allowed}",
    )
    serve, learn = settings.serve, settings.learn
    inside = serve.workers * serve.inferences * serve.call_threads
    found = (
        f"service: {serve.workers} processes, each {serve.inferences} inference calls of "
        f"{serve.call_threads} threads and {serve.decoders} decoders; worker: "
        f"{learn.threads or f'up to {usable}'} threads at niceness {learn.niceness}"
    )
    if inside > usable:
        advice = "leave serve.threads at 0, or lower serve.workers: they take turns otherwise"
        yield Finding(
            "threads", "warning", f"{found}; {inside} inference threads on {usable} cores", advice
        )
    else:
        yield Finding("threads", "ok", found)


def memory(settings: Settings) -> Iterator[Finding]:
    """What is free, and the container's limit."""
    total, free = meminfo()
    limit = memory_limit()
    limited = "none" if limit is None else f"{limit / GIB:.1f} GiB"
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free, container limit {limited}"
    held = settings.learn.window_bytes + settings.tune.buffer_bytes
    if min(free, limit or free) < LITTLE_MEMORY_BYTES + held:
        advice = "lower learn.window_bytes, tune.buffer_bytes and serve.workers, or give it more"
        more = f"; the worker may hold {held / GIB:.1f} GiB of images"
        yield Finding("memory", "warning", found + more, advice)
    else:
        yield Finding("memory", "ok", found)


def model(settings: Settings) -> Iterator[Finding]:
    """The named CLIP, as far as it can be seen without loading it."""
    name = settings.model
    if name == "lite":
        wrong = [each for each, digest in lite.DIGESTS.items() if sha256_of(each) != digest]
        if wrong:
            advice = "install adaptsvc again: the bundled files were changed or cut"
            yield Finding("model", "error", f"lite: {', '.join(wrong)} altered or missing", advice)
        else:
            yield Finding("model", "ok", "lite, bundled; SHA-256 of its files verified")
    elif name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if (folder / "open_clip_config.json").is_file():
            yield Finding("model", "ok", f"{folder}, verified when it is loaded")
        else:
            advice = "point it at a folder with open_clip_config.json and weights"
            yield Finding("model", "error", f"{folder} is no open_clip model folder", advice)
    else:
        found = f"{name}, which is fetched from its hub the first time, unless it is in the cache"
        yield Finding("model", "ok", found)


def home(settings: Settings) -> Iterator[Finding]:
    """Where everything is kept."""
    folder, there = settings.home, settings.home
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as exc:
        advice = "give this user the right to write there, or set home to another folder"
        yield Finding("home", "error", f"{folder} cannot be written: {exc}", advice)
        return
    free = shutil.disk_usage(there).free
    made = "" if there == folder else ", which will be made"
    found = f"{folder}{made}: writable, {free} bytes ({free / GIB:.1f} GiB) free"
    if free < LITTLE_DISK_BYTES:
        advice = "free some space: a full disk stops learning until there is room"
        yield Finding("home", "warning", found, advice)
    else:
        yield Finding("home", "ok", found)


def stream(settings: Settings) -> Iterator[Finding]:
    """The log of images and labels."""
    if settings.stream.kind == "sqlite" and not settings.stream_file.exists():
        yield Finding("stream", "ok", f"{settings.stream_file}, which will be made")
        return
    kafka = settings.stream.kafka
    where = f"Kafka at {kafka.servers} ({kafka.security})"
    try:
        open_log(settings).close()
    except (StreamError, AdaptsvcError, OSError) as exc:
        advice = {
            "sqlite": "see that the file is ours and whole, or set home to another folder",
            "kafka": "start it, correct stream.kafka.*, or run 'adaptsvc topics create'",
        }[settings.stream.kind]
        yield Finding("stream", "error", str(exc), advice)
    else:
        found = where if settings.stream.kind == "kafka" else str(settings.stream_file)
        yield Finding("stream", "ok", f"{found}: opened, every topic is there")


def state(settings: Settings) -> Iterator[Finding]:
    """Pointer and versions, and that what serves is whole."""
    if settings.state.kind == "file" and not settings.store.exists():
        found = f"files in {settings.store}, which will be made; no version serves yet"
        yield Finding("state", "ok", found)
        return
    try:
        opened = open_state(settings)
        current = opened.pointer.read()
        asked = opened.tasks.read().waiting
    except (AdaptsvcError, OSError) as exc:
        advice = "start Redis or correct state.*; for files see docs/operations.md on damage"
        yield Finding("state", "error", str(exc), advice)
        return
    where = "Redis" if settings.state.kind == "redis" else f"files in {settings.store}"
    yield Finding("state", "ok", f"{where}: reached")
    if asked is not None:
        advice = "start a worker if none runs: it makes a version for them"
        found = f"request {asked.id} for {len(asked.classes)} classes waits"
        yield Finding("classes", "warning", found, advice)
    if current.version is None:
        advice = "start the worker, or run 'adaptsvc export'"
        yield Finding("version", "warning", "none serves yet", advice)
        return
    try:
        manifest = opened.store.load(current.version).manifest
        opened.store.base(manifest.base)
    except AdaptsvcError as exc:
        advice = "run 'adaptsvc versions list', then 'adaptsvc versions activate N'"
        yield Finding("version", "error", str(exc), advice)
        return
    held = ", held" if current.held else ""
    found = f"{current.version} serves{held}: {manifest.model}, {len(manifest.classes)} classes"
    yield Finding("version", "ok", f"{found}; it and its base model verified")


def access(settings: Settings) -> Iterator[Finding]:
    """Who is let in, and whether versions are signed."""
    keys = settings.serve.keys
    try:
        check_exposure(settings.serve.host, keys_of(keys))
    except ConfigError as exc:
        yield Finding("keys", "error", str(exc), "the service would not start")
    else:
        roles = [line.split(":")[1] for line in keys]
        found = "none: embedded, the service answers loopback alone"
        if keys:
            found = f"{roles.count('admin')} admin and {roles.count('data')} data"
        yield Finding("keys", "ok", f"{found}; it listens on {settings.serve.host}")
    try:
        seal_of(settings.versions)
        signing = len(settings.versions.keys())
    except (AdaptsvcError, OSError, ValueError) as exc:
        advice = "see versions.signing_keys and versions.signing_keys_file"
        yield Finding("signing", "error", str(exc), advice)
    else:
        found = f"{signing} keys: others' versions are refused" if signing else "off"
        yield Finding("signing", "ok", found)


def port(settings: Settings) -> Iterator[Finding]:
    """Whether the service could listen where it is told to."""
    serve = settings.serve
    try:
        check_port(serve.host, serve.port)
    except AdaptsvcError as exc:
        yield Finding("port", "warning", str(exc), "nothing, if what listens is this service")
    else:
        yield Finding("port", "ok", f"{serve.port} of {serve.host} is free")


CHECKS: tuple[Check, ...] = (
    *(python, torch, inference, cores, memory),
    *(model, home, stream, state, access, port),
)


def installed(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def sha256_of(name: str) -> str:
    """Of a file of the bundled model; empty where it is not there."""
    try:
        with (lite.DIRECTORY / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def meminfo(path: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """Bytes of memory there are, and how many are free or can be freed."""
    lines = [line.split() for line in path.read_text().splitlines()]
    sizes = {parts[0].rstrip(":"): int(parts[1]) * 1024 for parts in lines if len(parts) > 1}
    return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"])


def memory_limit(root: Path = CGROUPS, own: Path = OURS) -> int | None:
    """Bytes that the control groups around this process allow; None where none says."""
    folders = [root / "memory", *folders_of(own.read_text() if own.exists() else "", root)]
    found = []
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                found.append(int((folder / name).read_text()))
            except (OSError, ValueError):  # no such group, or "max"
                continue
    limits = [limit for limit in found if limit < 2**60]  # version 1 says "none" by a huge number
    return min(limits, default=None)
