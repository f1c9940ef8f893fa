"""The exported image tower: it answers as torch does, and does so after its norms are replaced."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from adaptsvc.adapt.adapter import unit
from adaptsvc.bootstrap import Ready
from adaptsvc.clip.export import (
    DATA,
    GRAPH,
    decide_swap,
    exact,
    optimized_operators,
    swappable,
)
from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.parity import LIMITS, Gap, gap
from adaptsvc.errors import ModelError
from adaptsvc.images import ImageLimits, decode, normalise
from adaptsvc.publishing import ensure_base
from adaptsvc.serve_section import CudaSettings
from adaptsvc.serving.encoder import Encoder, Runtime, build, cuda_options
from adaptsvc.types import Float32, Tensors, UInt8
from adaptsvc.versions.base import Base
from adaptsvc.versions.store import VersionStore

VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
LITE = pytest.param("lite", marks=pytest.mark.slow)
RESNET = pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)


@pytest.fixture(scope="session")
def lite_base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clip, Base]:
    clip = load("lite")
    return clip, ensure_base(clip, VersionStore(tmp_path_factory.mktemp("lite")))


@pytest.fixture(scope="session")
def half_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Base]:
    return {}


@pytest.fixture
def half(
    exported: tuple[Clip, Base],
    half_bases: dict[str, Base],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Clip, Base]:
    """The same CLIP in half precision."""
    clip, base = exported
    if base.digest not in half_bases:
        store = VersionStore(tmp_path_factory.mktemp("half"))
        half_bases[base.digest] = ensure_base(clip, store, "float16")
    return clip, half_bases[base.digest]


@pytest.fixture(params=["vit", "resnet", LITE])
def exported(request: pytest.FixtureRequest) -> tuple[Clip, Base]:
    """A CLIP and its base in a store."""
    if request.param == "lite":
        found: tuple[Clip, Base] = request.getfixturevalue("lite_base")
        return found
    directory: Path = request.getfixturevalue(f"tiny_{request.param}_directory")
    home: Path = request.getfixturevalue("tiny_home")(directory)
    clip = load(f"local-dir:{directory}")
    base = VersionStore(home / "store").find_base(clip.fingerprint)
    assert base is not None
    return clip, base


@pytest.fixture
def pictures(png: Callable[..., bytes]) -> Callable[[Base, int], UInt8]:
    def make(base: Base, count: int) -> UInt8:
        return np.stack([decode(png(k), base.preprocess, ImageLimits()) for k in range(count)])

    return make


@pytest.fixture
def images(ready: Ready, pictures: Callable[[Base, int], UInt8]) -> UInt8:
    return pictures(ready.encoder.base, 5)


def in_torch(clip: Clip, pixels: UInt8, delta: Tensors | None = None) -> Float32:
    """The plain twin; the CLIP's own parameters come back."""
    parameters = swappable(clip)
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    inputs = torch.from_numpy(normalise(pixels, clip.preprocess))
    with torch.no_grad():
        for name, value in (delta or {}).items():
            parameters[name].copy_(torch.from_numpy(value))
        embeddings: Float32 = unit(clip.model.visual(inputs)).numpy()
        for name, value_before in before.items():
            parameters[name].copy_(value_before)
    return embeddings


def shaken(clip: Clip, seed: int = 0) -> Tensors:
    """A delta that changes every norm parameter by about a tenth."""
    generator = np.random.default_rng(seed)
    return {
        name: (p.detach().numpy() + generator.normal(0, 0.1, p.shape)).astype(np.float32)
        for name, p in swappable(clip).items()
    }


def test_every_norm_parameter_keeps_its_name_in_the_graph(exported: tuple[Clip, Base]) -> None:
    clip, base = exported
    proto = onnx.load(base.graph, load_external_data=False)
    names = {tensor.name for tensor in proto.graph.initializer}
    assert base.swappable == set(swappable(clip))
    assert base.swappable <= names


@pytest.mark.parametrize("batch", [1, 5])
def test_the_base_answers_as_torch_does(
    exported: tuple[Clip, Base], batch: int, pictures: Callable[[Base, int], UInt8]
) -> None:
    clip, base = exported
    pixels = pictures(base, batch)
    found = build(base, {}, Runtime()).embed(pixels)
    np.testing.assert_allclose(found, in_torch(clip, pixels), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_delta_answers_as_torch_does_and_changes_the_answer(
    exported: tuple[Clip, Base], pictures: Callable[[Base, int], UInt8]
) -> None:
    clip, base = exported
    pixels, delta = pictures(base, 5), shaken(clip)
    found = build(base, delta, Runtime()).embed(pixels)
    np.testing.assert_allclose(found, in_torch(clip, pixels, delta), atol=1e-4)
    assert np.abs(found - in_torch(clip, pixels)).max() > 1e-2


def test_a_single_norm_parameter_takes_effect(
    exported: tuple[Clip, Base], pictures: Callable[[Base, int], UInt8]
) -> None:
    clip, base = exported
    pixels = pictures(base, 2)
    plain, before = in_torch(clip, pixels), build(base, {}, Runtime())
    delta = shaken(clip)
    for name in sorted(delta)[:: len(delta) // 5]:
        value = delta[name]
        found = build(base, {name: value + 0.5}, Runtime(), before=before).embed(pixels)
        expected = in_torch(clip, pixels, {name: value + 0.5})
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)
        assert np.abs(found - plain).max() > 1e-3, name


@pytest.mark.parametrize(
    ("exported", "swap", "inputs"),
    [
        ("vit", "feed", 13),
        ("resnet", "session", 1),
        pytest.param("lite", "session", 1, marks=pytest.mark.slow),
    ],
    indirect=["exported"],
)
def test_layer_norms_are_fed_and_batch_norms_need_a_session(
    exported: tuple[Clip, Base], swap: str, inputs: int
) -> None:
    _, base = exported
    assert base.swap == swap
    graph = onnx.load(base.graph, load_external_data=False).graph
    assert len([value.name for value in graph.input]) == inputs


def test_half_precision_halves_the_base_and_is_another_one(
    exported: tuple[Clip, Base], half: tuple[Clip, Base]
) -> None:
    (clip, whole), (_, base) = exported, half
    assert (whole.precision, base.precision) == ("float32", "float16")
    assert (whole.fingerprint, base.fingerprint) == (
        clip.fingerprint,
        f"{clip.fingerprint}-float16",
    )
    assert (base.swap, base.swappable) == (whole.swap, whole.swappable)
    sizes = [(each.directory / DATA).stat().st_size for each in (whole, base)]
    assert 0.4 < sizes[1] / sizes[0] < 0.6
    types = {
        tensor.name: tensor.data_type
        for tensor in onnx.load(base.graph, load_external_data=False).graph.initializer
    }
    assert {types[name] for name in base.swappable} == {onnx.TensorProto.FLOAT16}
    assert next(clip.model.visual.parameters()).dtype is torch.float32  # it was copied, not changed


def test_half_precision_answers_as_torch_does_within_its_limits(
    half: tuple[Clip, Base], pictures: Callable[[Base, int], UInt8]
) -> None:
    clip, base = half
    pixels, delta = pictures(base, 5), shaken(clip)
    for change in ({}, delta):
        found = build(base, change, Runtime()).embed(pixels)
        apart = gap(in_torch(clip, pixels, change), found)
        assert apart.within(LIMITS["float16"]), apart
        assert found.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found - in_torch(clip, pixels)).max() > 1e-2  # the delta took effect


@pytest.mark.parametrize("exported", ["resnet", LITE], indirect=True)
def test_batch_norms_are_fused_in_half_precision_too(half: tuple[Clip, Base]) -> None:
    assert "BatchNormalization" not in optimized_operators(half[1].graph)


@VIT
def test_a_tower_that_half_precision_breaks_is_refused(
    tiny_directory: Path, tmp_path: Path
) -> None:
    clip = load(f"local-dir:{tiny_directory}")
    with torch.no_grad():
        clip.model.visual.conv1.weight.mul_(
            1e6
        )  # past 65,504: fine in float32, infinite in float16
    store = VersionStore(tmp_path / "store")
    with pytest.raises(ModelError, match=r"in float16 answers otherwise than torch in float32"):
        ensure_base(clip, store, "float16")
    assert ensure_base(clip, store).precision == "float32"
    assert len(list((store.root / "base").iterdir())) == 1


def test_a_gap_that_is_not_a_number_is_never_within() -> None:
    assert not Gap(float("nan"), 0.0).within(LIMITS["float16"])
    assert not Gap(1.0, float("nan")).within(LIMITS["float16"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("bind", [False, True])
def test_cuda_answers_as_torch_does_in_both_precisions(
    exported: tuple[Clip, Base],
    half: tuple[Clip, Base],
    pictures: Callable[[Base, int], UInt8],
    bind: bool,
) -> None:
    clip, _ = exported
    runtime = Runtime("cuda", options=cuda_options(CudaSettings()), bind=bind)
    for base in (exported[1], half[1]):
        pixels, delta = pictures(base, 5), shaken(clip)
        encoder = build(base, delta, runtime)
        assert encoder.provider == "CUDAExecutionProvider"
        apart = gap(in_torch(clip, pixels, delta), encoder.embed(pixels))
        assert apart.within(LIMITS[base.precision]), (base.precision, apart)


@pytest.mark.parametrize("exported", ["resnet", LITE], indirect=True)
def test_onnx_runtime_fuses_every_batch_norm(exported: tuple[Clip, Base]) -> None:
    _, base = exported
    before = sorted(base.directory.iterdir())
    operators = optimized_operators(base.graph)
    assert "BatchNormalization" not in operators
    assert operators & {"Conv", "FusedConv"}
    assert sorted(base.directory.iterdir()) == before


@RESNET
def test_batch_norms_that_are_inputs_are_not_fused_hence_the_session(ready: Ready) -> None:
    base = ready.encoder.base
    proto = onnx.load(base.graph, load_external_data=False)
    proto.graph.input.extend(
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        for tensor in proto.graph.initializer
        if tensor.name in base.swappable
    )
    overridable = base.directory / "overridable.onnx"
    onnx.save_model(proto, overridable)
    assert decide_swap(overridable) == "session"
    assert decide_swap(base.graph) == "feed"  # why it is asked before the inputs are taken away


@RESNET
def test_the_trap_add_initializer_is_silently_wrong_for_batch_norms(
    ready: Ready, images: UInt8
) -> None:
    clip, base, delta = ready.clip, ready.encoder.base, shaken(ready.clip)
    values = {k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in delta.items()}
    options = onnxruntime.SessionOptions()
    for name, value in values.items():
        options.add_initializer(name, value)
    session = onnxruntime.InferenceSession(base.graph, options, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": normalise(images, base.preprocess)})[0]
    assert np.abs(found - in_torch(clip, images, delta)).max() > 1e-2
    right = build(base, delta, Runtime()).embed(images)
    np.testing.assert_allclose(right, in_torch(clip, images, delta), atol=1e-4)


@VIT
def test_feeding_shares_the_session_of_the_encoder_before(ready: Ready) -> None:
    after = build(ready.encoder.base, shaken(ready.clip), Runtime(), before=ready.encoder)
    assert after.session is ready.encoder.session
    assert build(ready.encoder.base, {}, Runtime()).session is not ready.encoder.session


@VIT
def test_the_session_of_another_base_is_never_shared(
    ready: Ready, exported_resnet: Encoder
) -> None:
    after = build(ready.encoder.base, {}, Runtime(), before=exported_resnet)
    assert after.session is not exported_resnet.session


@pytest.fixture
def exported_resnet(tiny_resnet_directory: Path, tiny_home: Callable[[Path], Path]) -> Encoder:
    store = VersionStore(tiny_home(tiny_resnet_directory) / "store")
    (folder,) = (store.root / "base").iterdir()
    return build(store.base(folder.name), {}, Runtime())


def test_a_second_encoder_leaves_the_answers_of_the_first(ready: Ready, images: UInt8) -> None:
    first = build(ready.encoder.base, shaken(ready.clip, seed=1), Runtime())
    before = first.embed(images)
    second = build(ready.encoder.base, shaken(ready.clip, seed=2), Runtime(), before=first)
    assert np.abs(second.embed(images) - before).max() > 1e-2
    np.testing.assert_array_equal(first.embed(images), before)


def test_an_encoder_goes_on_when_the_delta_it_was_made_from_is_gone(
    ready: Ready, images: UInt8
) -> None:
    delta = shaken(ready.clip)
    expected = in_torch(ready.clip, images, delta)
    encoder = build(ready.encoder.base, {k: v.copy() for k, v in delta.items()}, Runtime())
    del delta
    _ = [np.full(4096, np.nan, np.float32) for _ in range(256)]  # over memory that was freed
    np.testing.assert_allclose(encoder.embed(images), expected, atol=1e-4)


def test_a_graph_that_cannot_be_read_is_a_model_error(ready: Ready) -> None:
    base = ready.encoder.base
    (base.directory / DATA).unlink()
    with pytest.raises(ModelError, match=f"ONNX Runtime refused .*{GRAPH}"):
        build(base, {}, Runtime())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_missing_is_an_error_and_no_silent_fallback(ready: Ready) -> None:
    with pytest.raises(ModelError, match=r"CUDAExecutionProvider was asked for|refused"):
        build(ready.encoder.base, {}, Runtime(device="cuda"))


def test_exact_convolutions_end_with_the_block_whatever_happens() -> None:
    before = torch.backends.cudnn.allow_tf32

    def fail() -> None:
        with exact():
            assert not torch.backends.cudnn.allow_tf32
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.backends.cudnn.allow_tf32 is before is True
