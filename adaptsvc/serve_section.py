"""How the service answers, as settings; and what all sections have in common."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from adaptsvc.cores import usable_cores

MOST_WORKERS = 64
KeyLine: TypeAlias = Annotated[str, Field(pattern=r"^[\w.-]{1,64}:(data|admin):[0-9a-f]{64}$")]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class CudaSettings(Section):
    """The CUDA provider of ONNX Runtime; without `serve.device` cuda nothing of it counts."""

    device_id: int = Field(0, ge=0, description="Which GPU, as CUDA counts them.")
    memory_bytes: int = Field(
        0, ge=0, description="Most GPU memory of one service process; 0 is no limit."
    )
    convolution_search: Literal["exhaustive", "heuristic", "default"] = Field(
        "exhaustive", description="How cuDNN chooses algorithms, once for each batch size."
    )
    tf32: bool = Field(
        False, description="Faster and less exact matrix products; see the self-test's tolerance."
    )


class ServeSettings(Section):
    """How the service answers."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(3000, ge=1, le=65535, description="Port to listen on.")
    workers: int = Field(
        default_factory=lambda: min(usable_cores(), MOST_WORKERS),
        ge=1,
        le=MOST_WORKERS,
        description="Service processes; the default is the number of usable cores.",
    )
    device: Literal["cpu", "cuda"] = Field(
        "cpu", description="Where inference runs; no silent fallback."
    )
    fallback: bool = Field(
        False, description="Run on the CPU where the device is missing; a metric says so."
    )
    precision: Literal["float32", "float16"] = Field(
        "float32", description="Of the image tower that the worker exports; float16 wants a GPU."
    )
    cuda: CudaSettings = CudaSettings()
    threads: int = Field(
        0,
        ge=0,
        description="Threads of one inference call on CPU; 0 is the usable cores / workers.",
    )
    decoders: int = Field(1, ge=1, description="Threads that decode images, per process.")
    inferences: int = Field(
        1, ge=1, description="Inference calls at once per process, by one session."
    )
    batch_images: int = Field(8, ge=1, description="Most images of one inference call.")
    batch_wait_s: float = Field(
        0.0,
        ge=0,
        description="How long an image waits for company; 0 takes only what waits already.",
    )
    max_images: int = Field(64, ge=1, description="Images per request.")
    max_body_bytes: int = Field(
        64 * 2**20, ge=1, description="Largest body of a request, in bytes."
    )
    queue_images: int = Field(
        128, ge=1, description="Images waiting or being computed, per process; more answer 429."
    )
    open_requests: int = Field(
        256, ge=1, description="Requests open at once, per process; more answer 429."
    )
    deadline_s: float = Field(
        30.0, gt=0, description="Longest wait for an answer; `X-Request-Timeout` may ask for less."
    )
    head_s: float = Field(
        10.0, gt=0, description="Longest time a request's target and headers may take to come."
    )
    body_s: float = Field(30.0, gt=0, description="Longest time a request's body may take to come.")
    canary_interval_s: float = Field(
        5.0, gt=0, description="How often /livez has an inference tried."
    )
    canary_timeout_s: float = Field(
        10.0, gt=0, description="An inference call that takes longer makes /livez fail."
    )
    slow_s: float = Field(
        0.5, ge=0, description="99th percentile over which the worker is asked to wait; 0 is never."
    )
    drain_notice_s: float = Field(
        1.0, ge=0, description="From SIGTERM, which ends readiness, to taking no more requests."
    )
    drain_s: int = Field(
        10, ge=1, description="How long requests under way may still take when the service ends."
    )
    poll_interval_s: float = Field(0.5, gt=0, description="How often the version pointer is read.")
    keys: tuple[KeyLine, ...] = Field(
        (), description="Hashes of API keys (JSON), made by `adaptsvc keys new`."
    )
    metrics: Literal["key", "open"] = Field(
        "key", description="Whether `/metrics` asks for a key, where there are keys."
    )

    @field_validator("keys")
    @classmethod
    def _check_names(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        names = [line.partition(":")[0] for line in keys]
        if len(set(names)) < len(names):
            raise ValueError("expected each key under a name of its own")
        return keys

    @property
    def call_threads(self) -> int:
        """Threads of one inference call."""
        return self.threads or max(1, usable_cores() // (self.workers * self.inferences))

    @property
    def timeout_s(self) -> float:
        """By when every request has an answer, whatever happens."""
        return self.body_s + self.deadline_s + 5
