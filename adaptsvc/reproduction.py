"""A round run again: from its record, its parent and the stream to the delta, held against the stored one.

It knows nothing of the command line, and publishes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ValidationError

from adaptsvc.adapt.labels import LabeledSample
from adaptsvc.adapt.window import Sample
from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.prompt import Prompt
from adaptsvc.config import Settings
from adaptsvc.errors import ImageError, NotReproducibleError
from adaptsvc.images import ImageLimits, Preprocess, decode
from adaptsvc.learner import Candidate, Learner
from adaptsvc.recording import crc32_of, this_machine
from adaptsvc.sections import LearnSettings, TuneSettings
from adaptsvc.serving.encoder import Runtime
from adaptsvc.serving.encoder import build as build_encoder
from adaptsvc.tuner import Tuner, start_from
from adaptsvc.types import Float32, Tensors, UInt8
from adaptsvc.versions.base import Base, marked
from adaptsvc.versions.manifest import Manifest
from adaptsvc.versions.round_record import Machine, Member, RoundRecord, parse_record
from adaptsvc.versions.store import Store, Version
from streams.errors import UnknownTopicError
from streams.log import Log
from streams.message import Message, TopicPartition

Verdict: TypeAlias = Literal["identical", "equal", "differs"]
SettingsT = TypeVar("SettingsT", bound=BaseModel)
TOLERANCE = 1e-5  # of every weight
WEIGHT_TOLERANCE = 1e-2  # of a sample weight; other processors and batches move it by far less
ZERO_SHOT_IMAGES = 64
NAMED = 5  # messages that are gone, in the error


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors of one sort, in the store and made again.

    Attributes:
        name: which sort.
        tensors: how many.
        values: how many numbers.
        difference: the largest; infinite where names or shapes differ.
        identical: whether every bit is the same.
    """

    name: str
    tensors: int
    values: int
    difference: float
    identical: bool


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of running a round again.

    Attributes:
        version: which version's round.
        parent: where it started.
        method: how it learned.
        images: from how many.
        groups: what was compared.
        changed: what is not as it was then, such as the processor.
    """

    version: int
    parent: int
    method: str
    images: int
    groups: tuple[Group, ...]
    changed: tuple[str, ...]

    @property
    def difference(self) -> float:
        """The largest of any group."""
        return max(group.difference for group in self.groups)

    @property
    def verdict(self) -> Verdict:
        """Whether the delta is the same: in every bit, within TOLERANCE, or not."""
        if all(group.identical for group in self.groups):
            return "identical"
        return "equal" if self.difference <= TOLERANCE else "differs"


def reproduce(settings: Settings, store: Store, log: Log, version: int) -> Reproduction:
    """Run the round of a version again, with its own settings, and compare.

    Torch's thread count is set to the round's, for the whole process.

    Args:
        settings: the limits of images; all else is the version's own.
        store: where the version, its parent and its base are.
        log: where its images are.
        version: whose round.

    Raises:
        VersionNotFoundError: there is no such version, or its parent is gone.
        VersionCorruptError: a file of it was altered.
        NotReproducibleError: it was not learned or not recorded, or an image or the model is not what it was.
    """
    manifest = store.manifest(version)
    record = _record(store, manifest)
    made, parent = store.load(version), store.load(_parent_of(manifest))
    messages = _messages(log, record, version)
    clip = _clip(store, manifest, record.machine)
    limits = ImageLimits.of(settings.images)
    pixels = _pixels(messages, record, clip.preprocess, limits)
    learner = _learner(clip, store, made)
    learner.load(parent, store.base(parent.manifest.base).tuned())
    if record.kind == "images":
        candidate = _learn(learner, manifest, record, pixels)
    else:
        candidate = _tune(learner, parent, manifest, record, pixels)
    return Reproduction(
        version=version,
        parent=parent.manifest.id,
        method=manifest.method,
        images=len(messages),
        groups=compare(made, store.base(manifest.base).tuned(), candidate),
        changed=_changed(record.machine),
    )


def compare(made: Version, tuned: Tensors, candidate: Candidate) -> tuple[Group, ...]:
    """A version, and the weights of its base that are not the CLIP's own, held against a candidate."""
    pairs: dict[str, tuple[Tensors, Tensors]] = {
        "norm weights": (_ending(made.delta, "weight"), _ending(candidate.delta, "weight")),
        "norm biases": (_ending(made.delta, "bias"), _ending(candidate.delta, "bias")),
        "other weights": (tuned, candidate.tower),
        "prompt context": ({"context": made.head.context}, {"context": candidate.context}),
        "class embeddings": (
            {"classes": made.head.class_embeddings},
            {"classes": candidate.class_embeddings},
        ),
    }
    return tuple(_group(name, *pair) for name, pair in pairs.items() if any(pair))


def _ending(tensors: Tensors, suffix: str) -> Tensors:
    return {name: value for name, value in tensors.items() if name.endswith(f".{suffix}")}


def _group(name: str, stored: Tensors, again: Tensors) -> Group:
    count = sum(value.size for value in stored.values())
    shapes = ({k: v.shape for k, v in tensors.items()} for tensors in (stored, again))
    if next(shapes) != next(shapes):
        return Group(name, len(stored), count, float("inf"), identical=False)
    gaps = [float(np.abs(value - again[key]).max()) for key, value in stored.items() if value.size]
    identical = all(value.tobytes() == again[key].tobytes() for key, value in stored.items())
    return Group(name, len(stored), count, max(gaps, default=0.0), identical)


def _record(store: Store, manifest: Manifest) -> RoundRecord:
    if manifest.parent is None:
        raise NotReproducibleError(
            f"version {manifest.id} is zero-shot: nothing was learned, so there is no round to run again; "
            "name a version that was learned ('adaptsvc versions list')",
            manifest.id,
        )
    data = store.record(manifest.id)
    if not data:
        raise NotReproducibleError(
            f"version {manifest.id} keeps no record of its round: it was published before rounds were "
            "recorded; name a newer version",
            manifest.id,
        )
    return parse_record(data, manifest.id)


def _parent_of(manifest: Manifest) -> int:
    assert manifest.parent is not None, "without a parent there is no record"
    return manifest.parent


def _messages(log: Log, record: RoundRecord, version: int) -> list[Message]:
    """Every message of the round, in its order."""
    found: list[Message] = []
    gone: list[str] = []
    for member in record.members.rows():
        message = _read(log, member)
        if message is None:
            gone.append(_place(member))
        else:
            found.append(message)
    if gone:
        named = ", ".join(gone[:NAMED]) + (", ..." if len(gone) > NAMED else "")
        raise NotReproducibleError(
            f"{len(gone)} of the {len(record.members)} messages that version {version} learned from are gone "
            f"from the stream: {named}; retention removed them or this is another stream, so the round "
            "cannot be run again",
            version,
        )
    return found


def _read(log: Log, member: Member) -> Message | None:
    try:
        partition = TopicPartition(member.topic, member.partition)
        messages = log.read(partition, offset=member.offset, limit=1)
    except UnknownTopicError:
        return None
    return messages[0] if messages else None


def _place(member: Member) -> str:
    return f"{member.topic} partition {member.partition} offset {member.offset}"


def _source(member: Member) -> tuple[str, int, int]:
    return member.topic, member.partition, member.offset


def _clip(store: Store, manifest: Manifest, machine: Machine) -> Clip:
    """The model the round learned with, on its device and threads."""
    if machine.device.startswith("cuda") and not torch.cuda.is_available():
        raise NotReproducibleError(
            f"version {manifest.id} was learned on {machine.device}, which this machine has not; "
            "run it again on one that has",
            manifest.id,
        )
    torch.set_num_threads(machine.threads)
    clip = load(manifest.model, device=machine.device)
    base = _root(store, manifest)
    if base.fingerprint != marked(clip.fingerprint, base.precision):
        raise NotReproducibleError(
            f"the model {manifest.model!r} is not the one version {manifest.id} goes back to: its weights or "
            "its preprocessing changed; put the old ones back",
            manifest.id,
        )
    return clip


def _root(store: Store, manifest: Manifest) -> Base:
    """The base of the zero-shot version a version goes back to."""
    while manifest.parent is not None:
        manifest = store.manifest(manifest.parent)
    return store.base(manifest.base)


def _learner(clip: Clip, store: Store, made: Version) -> Learner:
    manifest = made.manifest
    base = _root(store, manifest)
    encoder = build_encoder(base, {}, Runtime("cpu", torch.get_num_threads()))
    return Learner(clip, Prompt(clip, manifest.classes, manifest.prompt), encoder)


def _pixels(
    messages: Sequence[Message], record: RoundRecord, preprocess: Preprocess, limits: ImageLimits
) -> list[UInt8]:
    """What the round saw (3, H, W), each checked against the record."""
    found = []
    for message, member in zip(messages, record.members.rows(), strict=True):
        try:
            pixels = decode(message.value, preprocess, limits)
        except ImageError as exc:
            raise NotReproducibleError(f"{_place(member)} is no image any more: {exc}") from exc
        if crc32_of(pixels) != member.crc32:
            raise NotReproducibleError(
                f"{_place(member)} holds another image than the round learned from, or is decoded otherwise "
                f"(then with Pillow {record.machine.pillow}): use the stream and the libraries of that time"
            )
        found.append(pixels)
    return found


def _learn(
    learner: Learner,
    manifest: Manifest,
    record: RoundRecord,
    pixels: Sequence[UInt8],
) -> Candidate:
    settings, weights = _settings_of(LearnSettings, manifest), record.sample_weights()
    _check_weights(learner, settings, pixels, weights)
    nothing = np.zeros(0, np.float32)  # the round's steps do not look at zero-shot answers
    samples = [
        Sample(_place(member), image, nothing, float(weight), _source(member))
        for member, image, weight in zip(record.members.rows(), pixels, weights, strict=True)
    ]
    return learner.learn(samples, settings, manifest.seed, between_steps=lambda: None)


def _tune(
    learner: Learner,
    parent: Version,
    manifest: Manifest,
    record: RoundRecord,
    pixels: Sequence[UInt8],
) -> Candidate:
    nothing = np.zeros(0, np.float32)
    samples = [
        LabeledSample(_place(member), image, target, _source(member), nothing)
        for member, image, target in zip(record.members.rows(), pixels, record.targets, strict=True)
    ]
    return Tuner(learner.tower).tune(
        start_from(parent, learner),
        samples,
        _settings_of(TuneSettings, manifest),
        seed=manifest.seed,
        between_steps=lambda: None,
    )


def _check_weights(
    learner: Learner, settings: LearnSettings, pixels: Sequence[UInt8], weights: Float32
) -> None:
    """Refuse recorded sample weights that are not what the zero-shot model gives."""
    for start in range(0, len(pixels), ZERO_SHOT_IMAGES):
        some = slice(start, start + ZERO_SHOT_IMAGES)
        _, again = learner.zero_shot(np.stack(pixels[some]), settings.weight_temperature)
        gap = float(np.abs(again - weights[some]).max())
        if not gap <= WEIGHT_TOLERANCE:  # also true for NaN
            raise NotReproducibleError(
                f"a recorded sample weight is {gap:.2g} away from what the zero-shot model gives, "
                f"{WEIGHT_TOLERANCE} is allowed: the class names, the prompt or the text tower changed"
            )


def _settings_of(kind: type[SettingsT], manifest: Manifest) -> SettingsT:
    try:
        return kind(**manifest.config)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        raise NotReproducibleError(
            f"the settings of version {manifest.id} are not those of this adaptsvc: "
            f"{'.'.join(map(str, first['loc']))}: {first['msg']}; use the release that made it",
            manifest.id,
        ) from exc


def _changed(machine: Machine) -> tuple[str, ...]:
    """What the machine of the round had, and this one has not."""
    now = this_machine(machine.device, ranks=1)
    pairs: Iterable[tuple[str, object]] = machine.model_dump().items()
    here: Mapping[str, object] = now.model_dump()
    return tuple(
        f"{name}: {then} then, {here[name]} now" for name, then in pairs if here[name] != then
    )
