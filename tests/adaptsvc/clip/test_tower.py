"""The tower: which weights a choice names, what comes back on load, and where the start was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adaptsvc.adapt.carot import orthogonality_penalty
from adaptsvc.clip.load import Clip, load
from adaptsvc.clip.tower import Tower
from adaptsvc.errors import ModelError
from adaptsvc.images import Preprocess, normalise
from adaptsvc.types import Tensors, UInt8

pytestmark = pytest.mark.usefixtures("one_thread")
VIT = pytest.mark.parametrize("tiny_directory", ["vit"], indirect=True)
RESNET = pytest.mark.parametrize("tiny_directory", ["resnet"], indirect=True)
HALF = (0.5, 0.5, 0.5)
PREPROCESS = Preprocess(4, "squash", "bicubic", HALF, HALF)


@pytest.fixture
def clip(tiny_directory: Path) -> Clip:
    return load(f"local-dir:{tiny_directory}")


@pytest.fixture
def tower(clip: Clip) -> Tower:
    return Tower(clip)


class TimmLike(nn.Module):
    """Named as timm's towers with a linear head are, its rows orthonormal."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Flatten(), nn.LayerNorm(48))
        self.head = nn.ModuleDict({"proj": nn.Linear(48, 4)})
        nn.init.orthogonal_(self.proj.weight, generator=torch.Generator().manual_seed(0))

    @property
    def proj(self) -> nn.Linear:
        layer = self.head["proj"]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.proj(self.trunk(images))
        return projected


def of(visual: nn.Module) -> Tower:
    """The tower of a CLIP that has this one."""
    model = SimpleNamespace(visual=visual)
    return Tower(Clip("other", model, lambda _: torch.zeros(0), PREPROCESS, 1.0, ""))


def state(tower: Tower) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in tower.module.state_dict().items()}


def differing(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


def shifted(tower: Tower, names: set[str], by: float = 0.25) -> Tensors:
    """Values for these parameters that are not those of the start."""
    return {name: tower.initial(name).numpy() + np.float32(by) for name in names}


def pictures(count: int = 3) -> UInt8:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)


def test_norm_selects_the_norms_and_all_selects_every_parameter(tower: Tower) -> None:
    assert set(tower.select("norm")) == set(tower.norms)
    assert set(tower.select("all")) == dict(tower.module.named_parameters()).keys()
    assert set(tower.norms) < set(tower.select("last-block")) < set(tower.select("all"))


@VIT
def test_the_last_block_of_a_vit_is_its_last_layer_and_the_projection(tower: Tower) -> None:
    extra = set(tower.select("last-block")) - set(tower.norms)
    assert extra == {
        "visual.proj",
        *(
            f"visual.transformer.resblocks.1.{name}.{kind}"
            for name in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj")
            for kind in ("weight", "bias")
        ),
        "visual.transformer.resblocks.1.attn.in_proj_weight",
        "visual.transformer.resblocks.1.attn.in_proj_bias",
    }


@RESNET
def test_the_last_block_of_a_resnet_is_its_last_layer_and_the_pooling(tower: Tower) -> None:
    extra = set(tower.select("last-block")) - set(tower.norms)
    every = {name for name, _ in tower.module.named_parameters()} - set(tower.norms)
    assert extra == {n for n in every if n.startswith(("visual.layer4.", "visual.attnpool."))}
    assert "visual.layer4.0.conv1.weight" in extra
    assert "visual.attnpool.c_proj.weight" in extra


@VIT
def test_in_a_vit_the_norms_are_those_before_each_part_and_at_both_ends(tower: Tower) -> None:
    layers = {name.rpartition(".")[0].removeprefix("visual.") for name in tower.norms}
    blocks = {f"transformer.resblocks.{block}.ln_{part}" for block in (0, 1) for part in (1, 2)}
    assert layers == {"ln_pre", "ln_post", *blocks}


def test_a_tower_whose_last_block_is_not_known_says_what_to_set_instead() -> None:
    tower = of(nn.Sequential(nn.Flatten(), nn.LayerNorm(48), nn.Linear(48, 4)))
    assert len(tower.select("norm")) == 2
    with pytest.raises(ModelError, match=r"Sequential is not known; set tune.trained to 'norm'"):
        tower.select("last-block")


def test_only_what_is_trained_asks_for_gradients(tower: Tower) -> None:
    assert not any(p.requires_grad for p in tower.module.parameters())
    chosen = tower.select("last-block")
    tower.train(chosen)
    found = {name for name, p in tower.module.named_parameters() if p.requires_grad}
    assert found == set(chosen)
    tower.train(tower.norms)
    found = {name for name, p in tower.module.named_parameters() if p.requires_grad}
    assert found == set(tower.norms)
    assert not tower.module.training


def test_loading_weights_sets_them_and_no_other(tower: Tower) -> None:
    before, chosen = state(tower), set(list(tower.select("all"))[:5])
    weights = shifted(tower, chosen)
    tower.load(weights)
    assert differing(before, state(tower)) == chosen
    for name in chosen:
        np.testing.assert_array_equal(state(tower)[name].numpy(), weights[name])


def test_loading_puts_all_else_back_to_the_start(tower: Tower) -> None:
    before = state(tower)
    tower.load(shifted(tower, set(tower.select("last-block"))))
    kept = min(tower.norms)
    tower.load(shifted(tower, {kept}))
    assert differing(before, state(tower)) == {kept}
    tower.load({})
    assert not differing(before, state(tower))


def test_what_was_trained_without_loading_goes_back_to_the_start_too(tower: Tower) -> None:
    before, chosen = state(tower), tower.select("all")
    tower.train(chosen)
    with torch.no_grad():
        for parameter in chosen.values():
            parameter.add_(1.0)
    tower.load({})
    assert not differing(before, state(tower))


def test_a_name_the_tower_does_not_have_is_refused_and_nothing_is_loaded(tower: Tower) -> None:
    before = state(tower)
    weights = {**shifted(tower, {min(tower.norms)}), "visual.foreign": np.ones(2, np.float32)}
    with pytest.raises(ModelError, match=r"visual\.foreign.*made from another model"):
        tower.load(weights)
    assert not differing(before, state(tower))


def test_changed_is_what_is_not_as_at_the_start_without_the_norms(tower: Tower) -> None:
    assert tower.changed() == {}
    extra = set(tower.select("last-block")) - set(tower.norms)
    chosen = min(extra)
    weights = shifted(tower, {chosen, *tower.norms})
    tower.load(weights)
    assert set(tower.changed()) == {chosen}
    np.testing.assert_array_equal(tower.changed()[chosen], weights[chosen])
    tower.load({})
    assert tower.changed() == {}


def test_changed_and_norm_values_are_copies(tower: Tower) -> None:
    chosen = max(set(tower.select("all")) - set(tower.norms))
    tower.load(shifted(tower, {chosen}))
    changed, norms = tower.changed(), tower.norm_values()
    kept = {name: value.copy() for name, value in {**changed, **norms}.items()}
    tower.load(shifted(tower, {chosen, *tower.norms}, by=3.0))
    for name, value in {**changed, **norms}.items():
        np.testing.assert_array_equal(value, kept[name])


def test_changed_weights_loaded_into_another_tower_make_it_the_same(
    tower: Tower, tiny_directory: Path
) -> None:
    tower.load(shifted(tower, set(tower.select("all"))))
    other = Tower(load(f"local-dir:{tiny_directory}"))
    other.load({**tower.changed(), **tower.norm_values()})
    assert not differing(state(tower), state(other))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_interpolation_is_a_share_of_the_way_from_the_start(tower: Tower, share: float) -> None:
    before, names = state(tower), set(tower.select("all"))
    tower.load(shifted(tower, names, by=1.0))
    tower.interpolate(share, names)
    for name, value in state(tower).items():
        expected = before[name] + share if name in names else before[name]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-6, msg=name)


def test_interpolation_by_zero_is_the_start_bit_for_bit(tower: Tower) -> None:
    before = state(tower)
    tower.load(shifted(tower, set(tower.select("all"))))
    tower.interpolate(0.0, tower.select("all"))
    assert not differing(before, state(tower))
    assert tower.changed() == {}


def test_interpolation_of_some_parameters_leaves_the_others_where_they_are(tower: Tower) -> None:
    tower.load(shifted(tower, set(tower.select("all"))))
    before = state(tower)
    tower.interpolate(0.5, tower.norms)
    assert differing(before, state(tower)) == set(tower.norms)


def test_pixels_are_embedded_as_serving_normalises_them(tower: Tower, clip: Clip) -> None:
    inputs = torch.from_numpy(normalise(pictures(), clip.preprocess))
    with torch.no_grad():
        expected = F.normalize(clip.model.visual(inputs), dim=-1)
    found = tower.embed(torch.from_numpy(pictures()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not found.requires_grad


@VIT
def test_the_projection_of_a_vit_maps_its_width_to_the_embedding(tower: Tower) -> None:
    projection = tower.projection(tower.select("last-block"))
    assert projection is not None
    assert projection() is dict(tower.module.named_parameters())["visual.proj"]
    assert projection().shape == (64, 32)


def test_a_projection_that_is_not_trained_is_none(tower: Tower) -> None:
    assert tower.projection(tower.select("norm")) is None


@RESNET
def test_a_resnet_that_pools_by_attention_has_no_projection(tower: Tower) -> None:
    assert tower.projection(tower.select("all")) is None


def test_the_projection_of_a_linear_head_has_the_inputs_first_as_carot_wants_it() -> None:
    """Orthonormal, it costs nothing; the other way round 44 of 48 columns could never be."""
    tower = of(TimmLike())
    projection = tower.projection(tower.select("all"))
    assert projection is not None
    assert projection().shape == (48, 4)
    assert orthogonality_penalty(projection()).item() == pytest.approx(0, abs=1e-5)
