"""Every error adaptsvc raises, in one tree; it knows nothing of HTTP, files or models.

    AdaptsvcError
    ├── ConfigError             a setting is unknown, malformed or out of range
    ├── ImageError              the bytes sent cannot become a picture
    │   ├── NotAnImageError     not a format we read, or truncated
    │   └── ImageTooLargeError  over the cap on bytes, pixels or side
    ├── ImageIdError            an image id that cannot be kept
    ├── LabelError              a label cannot be used
    │   ├── UnknownClassError   it is none of the class names
    │   ├── ImageNotSeenError   it came without an image, and none of its id came in time
    │   ├── LabelsWaitingError  too many labels wait for their images
    │   └── ImageGoneError      its image came, and the stream no longer holds it
    ├── ModelError              the named CLIP cannot be loaded or exported
    │   └── ParityError         torch and ONNX Runtime disagree on the exported model
    ├── ServiceError            a running service answered with an error, or not at all
    ├── InferenceError          the model that serves gave no usable answer
    ├── VersionError            something about a model version
    │   ├── VersionNotFoundError
    │   │   └── VersionPrunedError  it was there, and its weights were deleted
    │   ├── VersionCorruptError  a digest does not hold, or a file is no version's
    │   │   ├── VersionSchemaError  it is of another schema
    │   │   ├── VersionUnsignedError  no key that is known here has signed it
    │   │   └── SelfTestError    it does not answer as it did where it was made
    │   ├── VersionTooLargeError  it is over the cap of what all processes share
    │   ├── ForeignBaseError     the version was made for another base model
    │   ├── PromotionConflictError  somebody else promoted first
    │   │   └── PromotionHeldError  a person holds what serves
    │   └── NotReproducibleError    its round cannot be run again
    ├── StateError              what all processes share was not read or written
    │   ├── StateUnavailableError  nobody answers; whether a write was done is not known
    │   ├── StateRefusedError    it answers, and says no
    │   └── LeaseLostError       another worker writes; nothing was written
    ├── ObjectiveError          an objective was given shapes or values it cannot use
    │   └── NonFiniteStepError  a step produced NaN or Inf and was undone
    ├── RanksError              the processes that learn together cannot start or lost one another
    ├── CheckpointError         the worker's checkpoint cannot be read
    └── DiskFullError           no room on a disk; what was to be written is not there

Each message names what came, what was expected and what to do; the offending data are attributes.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, TypeAlias

Code: TypeAlias = Literal[
    "altered",
    "unsigned",
    "schema",
    "foreign_base",
    "self_test",
    "not_found",
    "pruned",
    "unexpected",
]


class AdaptsvcError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(AdaptsvcError):
    """A setting is unknown, malformed or out of range."""


class ImageError(AdaptsvcError):
    """The bytes sent cannot become a picture."""


class NotAnImageError(ImageError):
    """The bytes are no image format we read, or they end too early."""


class ImageTooLargeError(ImageError):
    """The image is over a cap.

    Attributes:
        what: which cap, one of ``bytes``, ``pixels``, ``side``.
        value: what came.
        limit: what is allowed.
    """

    def __init__(self, what: str, value: int, limit: int) -> None:
        super().__init__(
            f"the image has {value} {what}, at most {limit} are allowed; "
            "send a smaller image or raise the limit in the images settings"
        )
        self.what = what
        self.value = value
        self.limit = limit


class ImageIdError(AdaptsvcError):
    """An image id is too long to be kept."""


class LabelError(AdaptsvcError):
    """A label cannot be used."""


class UnknownClassError(LabelError):
    """The label is none of the class names."""


class ImageNotSeenError(LabelError):
    """The label came without an image, and none of its id came in time."""


class LabelsWaitingError(LabelError):
    """The label waited for its image and had to give way to newer ones."""


class ImageGoneError(LabelError):
    """The image that the label is for came, and the stream no longer holds it."""


class ModelError(AdaptsvcError):
    """The named CLIP cannot be loaded or exported."""


class ParityError(ModelError):
    """The exported model does not answer as the one it was made from."""


class ServiceError(AdaptsvcError):
    """A running service answered with an error, or not at all.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        field: what the service found fault with.
    """

    def __init__(self, message: str, *, status: int = 0, field: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.field = field


class InferenceError(AdaptsvcError):
    """The model that serves gave no usable answer."""


class VersionError(AdaptsvcError):
    """Something is wrong with a model version.

    Attributes:
        version: the version's id, or -1 where none is known yet.
        code: what is wrong, in a word for machines.
    """

    code: ClassVar[Code] = "unexpected"

    def __init__(self, message: str, version: int = -1) -> None:
        super().__init__(message)
        self.version = version


class VersionNotFoundError(VersionError):
    """No such version in the store."""

    code: ClassVar[Code] = "not_found"


class VersionPrunedError(VersionNotFoundError):
    """The version was there; its manifest is left, its weights were deleted."""

    code: ClassVar[Code] = "pruned"


class VersionCorruptError(VersionError):
    """A digest of a version does not hold, or a file of it cannot be read."""

    code: ClassVar[Code] = "altered"


class VersionSchemaError(VersionCorruptError):
    """The version is of another schema than this software reads."""

    code: ClassVar[Code] = "schema"


class VersionUnsignedError(VersionCorruptError):
    """Signing keys are set, and none of them has signed the version."""

    code: ClassVar[Code] = "unsigned"


class SelfTestError(VersionCorruptError):
    """The version does not answer its self-test as it did where it was made."""

    code: ClassVar[Code] = "self_test"


class VersionTooLargeError(VersionError):
    """The version, or its base, is over a cap of the shared state."""


class ForeignBaseError(VersionError):
    """The version was made for a base model that is not the one at hand."""

    code: ClassVar[Code] = "foreign_base"


class PromotionConflictError(VersionError):
    """The version's parent is no longer the current version."""


class PromotionHeldError(PromotionConflictError):
    """A person holds the version that serves."""


class StateError(AdaptsvcError):
    """What the processes of an installation share was not read or written."""


class StateUnavailableError(StateError):
    """Nobody answers; whether a write was done is not known."""


class StateRefusedError(StateError):
    """It answers, and says no."""


class LeaseLostError(StateError):
    """Another worker holds the lease, or nobody; nothing was written.

    Attributes:
        token: the fencing token of the writer; 0 when it holds none.
    """

    def __init__(self, message: str, token: int) -> None:
        super().__init__(message)
        self.token = token


class NotReproducibleError(VersionError):
    """The round of a version cannot be run again: something it was made of is gone or not what it was."""


class ObjectiveError(AdaptsvcError):
    """An objective was given shapes or values it cannot use."""


class NonFiniteStepError(ObjectiveError):
    """A step gave NaN or Inf; the weights were restored to what they were before it."""


class RanksError(AdaptsvcError):
    """The processes that learn together cannot start, lost one another, or one of them gave up."""


class CheckpointError(AdaptsvcError):
    """The worker's checkpoint is missing a part or does not match its digest."""


class DiskFullError(AdaptsvcError):
    """There is no room on a disk; what was to be written is not there, and what was there still is.

    Attributes:
        path: what was to be written.
        disk: where its disk is mounted.
        free_bytes: what was left on it.
    """

    def __init__(self, path: Path, disk: Path, free_bytes: int) -> None:
        super().__init__(
            f"no room for {path}: the disk at {disk} has {free_bytes} bytes free; free some, or give it "
            "more: what waits goes on by itself"
        )
        self.path = path
        self.disk = disk
        self.free_bytes = free_bytes
