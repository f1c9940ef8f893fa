"""False alarms on streams that stay as they are, and how soon a change is told.

`python -m benchmarks.drift CACHE --fashion FOLDER --pacs FOLDER` embeds what is not in the cache yet
with `benchmarks.drift_pictures`, then draws streams from that. No threshold is fitted to these pictures: it
comes from `drift.images_per_false_alarm` alone.

Many streams go through one detector side by side, as scores of their own; each has the reference, bins and
draws that it would have alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from adaptsvc.corruption import Kind
from adaptsvc.serving.predictor import logits_of
from adaptsvc.trust import ood
from adaptsvc.trust.calibration import softmax
from adaptsvc.trust.drift import Limits, Looks, decode_signal, looks_of, signals
from adaptsvc.trust.sequential import Bets, ChangeDetector, State
from adaptsvc.trust.two_sample import energy_difference
from adaptsvc.types import Float64

Alarms: TypeAlias = dict[str, npt.NDArray[np.int64]]  # (S,) by signal
NAMES = ("embedding", "confidence", "entropy", "classes", "ood", "decode")
KINDS: tuple[Kind, ...] = ("gaussian_noise", "defocus_blur", "contrast")
SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE, BEFORE = 256, 200
COMPARED = 500  # pictures of each pool that the energy coefficient is of, which takes all pairs
FAILURES = (0.01, 0.05, 0.2)  # shares of messages that are no images


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        streams: without a change, of each kind.
        images: of each.
        changes: streams with a change, of each kind.
        after: the most images after it.
    """

    streams: int = 100
    images: int = 5000
    changes: int = 20
    after: int = 1000


class Many:
    """One signal of many streams.

    Args:
        detectors: one of each stream, as the worker would have it.
        bets: theirs.
    """

    def __init__(self, detectors: list[ChangeDetector], bets: Bets) -> None:
        states = [each.state for each in detectors]
        self._streams, self._scores = len(states), len(states[0].edges)
        self._threshold = detectors[0].threshold
        edges = np.concatenate([state.edges for state in states])
        self._all = ChangeDetector(edges, np.zeros((0, len(edges))), bets=bets, seed=1)
        self._all.state = State(
            edges,
            np.concatenate([state.counts for state in states]),
            np.concatenate([state.evidence for state in states]),
        )
        self._all.threshold = np.inf  # the alarm of one must not stop the others

    def update(self, scores: Float64) -> npt.NDArray[np.bool_]:
        """Take in one image of each stream, (S, J); which of them are alarms, (S,)."""
        self._all.update(scores.ravel())
        evidence = self._all.evidence.reshape(self._streams, self._scores)
        # log(1 + R / J) of the largest R, from log(1 + R)
        found = np.log1p(np.expm1(evidence.max(axis=1)) / self._scores)
        return np.asarray(found >= self._threshold)


@dataclass(frozen=True, slots=True)
class Pool:
    """Pictures of one condition, as the worker would see them, and how many classes there are."""

    looks: Looks
    classes: int

    @classmethod
    def read(cls, path: Path) -> Pool:
        """From what `benchmarks.drift_pictures` wrote."""
        with np.load(path) as file:
            head, scale = file["class_embeddings"], float(file["logit_scale"])
            logits = logits_of(file["embeddings"], head, scale)
            looks = looks_of(file["embeddings"], softmax(logits), ood.energy(logits, scale))
        return cls(looks, len(head))


def first_alarms(
    before: Pool, after: Pool, plan: tuple[int, int, int], rng: np.random.Generator
) -> Alarms:
    """By signal, when each stream gave its first alarm: (S,), counted from 1; 0 is never.

    Args:
        before: what the reference and the first images are drawn from.
        after: what the others are drawn from.
        plan: streams, images before the change, images after it.
        rng: of all draws.
    """
    streams, calm, changed = plan
    limits = Limits(reference_images=REFERENCE, classes=before.classes)
    count = len(before.looks)
    pool, alarms = before.looks.then(after.looks), {}
    found, shown = [], []
    for seed in range(streams):
        own = drawn(rng, count, REFERENCE + calm)
        found.append(signals(before.looks[own[:REFERENCE]], limits, seed))
        later = count + drawn(rng, len(after.looks), changed)
        shown.append(np.concatenate([own[REFERENCE:], later]))
    for name in NAMES[:-1]:
        pairs = zip(found, shown, strict=True)
        scores = np.stack([each[name].scores(pool[own]) for each, own in pairs], axis=1)
        many = Many([each[name].detector for each in found], bets_of(name))
        alarms[name] = first(many.update(row) for row in scores)  # of (T, S, J)
    return alarms


def drawn(rng: np.random.Generator, count: int, size: int) -> npt.NDArray[np.int64]:
    """So many pictures of a pool of `count`, (size,): each at most once where there are enough of them."""
    return rng.choice(count, size, replace=size > count)


def failure_alarms(plan: tuple[int, int, int], share: float, rng: np.random.Generator) -> Alarms:
    """The same of messages that are no images, none before the change and a share of all after it."""
    streams, calm, changed = plan
    detectors = [decode_signal(0, REFERENCE, Limits(), seed) for seed in range(streams)]
    many = Many(detectors, bets_of("decode"))
    failed = rng.random((calm + changed, streams)) < share
    failed[:calm] = False
    return {"decode": first(many.update(row[:, None].astype(np.float64)) for row in failed)}


def bets_of(name: str) -> Bets:
    """How a signal bets."""
    return "rare" if name in ("classes", "decode") else "shift"


def first(alarms: Iterable[npt.NDArray[np.bool_]]) -> npt.NDArray[np.int64]:
    """For each column, the row of its first alarm, from 1; 0 is never."""
    found = np.array(list(alarms))  # (T, S)
    result: npt.NDArray[np.int64] = np.where(found.any(axis=0), found.argmax(axis=0) + 1, 0)
    return result


def false_alarms(pools: Mapping[str, Pool], plan: Plan) -> dict[str, dict[str, float]]:
    """Per 10,000 images at risk, by data set and signal; and of all signals together."""
    table: dict[str, dict[str, float]] = {}
    for name, pool in pools.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        shape = (plan.streams, plan.images, 0)
        alarms = first_alarms(pool, pool, shape, rng) | failure_alarms(shape, 0.0, rng)
        # A stream is at risk until its first alarm; the alarms of all signals add up.
        at_risk = {each: np.where(at, at, plan.images).sum() for each, at in alarms.items()}
        counted = {each: int((at > 0).sum()) for each, at in alarms.items()}
        rates = {each: 1e4 * counted[each] / at_risk[each] for each in NAMES}
        table[name] = {**rates, "together": sum(rates.values()), "alarms": sum(counted.values())}
        print(name, table[name], flush=True)
    return table


def delay(before: Pool, after: Pool, plan: Plan, seed: int) -> dict[str, list[float]]:
    """By signal: median, 10th and 90th percentile of the images from a change to its alarm, and share told.

    A stream whose signal had an alarm before the change is left out; never told counts as the most images.
    """
    rng = np.random.default_rng(seed)
    alarms = first_alarms(before, after, (plan.changes, BEFORE, plan.after), rng)
    return spread_of({**alarms, "any": earliest(alarms)}, plan)


def earliest(alarms: Alarms) -> npt.NDArray[np.int64]:
    """The first alarm of any signal, of each stream."""
    found = np.stack(list(alarms.values())).astype(np.float64)
    found[found == 0] = np.inf
    least = found.min(axis=0)
    return np.where(np.isinf(least), 0, least).astype(np.int64)


def spread_of(alarms: Alarms, plan: Plan) -> dict[str, list[float]]:
    """See `delay`."""
    table = {}
    for name, at in alarms.items():
        late = at[(at == 0) | (at > BEFORE)]
        images = np.where(late == 0, plan.after, late - BEFORE)
        quantiles = np.quantile(images, [0.5, 0.1, 0.9]) if len(late) else np.full(3, np.nan)
        table[name] = [*map(float, quantiles), float((late > 0).mean()) if len(late) else 0.0]
    return table


def delays(cache: Path, plan: Plan) -> dict[str, dict[str, list[float]]]:
    """Every change."""
    table = {}
    photo, fashion = Pool.read(cache / "pacs-photo.npz"), Pool.read(cache / "fashion.npz")
    changes = {
        f"PACS photo to {domain}": (photo, Pool.read(cache / f"pacs-{domain}.npz"))
        for domain in ("art_painting", "cartoon", "sketch")
    } | {
        f"clothes, {kind} {severity}": (
            fashion,
            Pool.read(cache / f"fashion-{kind}-{severity}.npz"),
        )
        for kind, severity in product(KINDS, SEVERITIES)
    }
    for seed, (name, (before, after)) in enumerate(changes.items()):
        table[name] = delay(before, after, plan, seed)
        effect = energy_difference(some_of(before), some_of(after))
        table[name]["energy coefficient"] = [effect.effect, effect.p_value]
        print(name, table[name], flush=True)
    for share in FAILURES:
        rng = np.random.default_rng(round(1000 * share))
        name = f"{share:.0%} no images"
        found = failure_alarms((plan.changes, BEFORE, plan.after), share, rng)
        table[name] = spread_of({**found, "any": found["decode"]}, plan)
        print(name, table[name], flush=True)
    return table


def some_of(pool: Pool) -> Float64:
    """The sketches of its first images, (N, P)."""
    return pool.looks.sketch[:COMPARED].astype(np.float64)


def show(alarms: dict[str, dict[str, float]], found: dict[str, dict[str, list[float]]]) -> None:
    """Two tables."""
    rare = Table(title="False alarms per 10,000 images")
    late = Table(title="Images from a change to its alarm: median (10 % - 90 %)")
    for column in ("stream", *NAMES, "together"):
        rare.add_column(column)
    for name, row in alarms.items():
        rare.add_row(name, *(f"{row[column]:.2f}" for column in (*NAMES, "together")))
    for column in ("change", "energy", "any", *NAMES):
        late.add_column(column)
    for name, spreads in found.items():
        energy = spreads.get("energy coefficient")
        cells = [cell(spreads.get(column)) for column in ("any", *NAMES)]
        late.add_row(name, "" if energy is None else f"{energy[0]:.3f}", *cells)
    console = Console(width=150)
    console.print(rare, late)


def cell(spread: list[float] | None) -> str:
    """A delay; a dash where most streams were not told."""
    if spread is None:
        return ""
    median, low, high, told = spread
    return f"{median:.0f} ({low:.0f} - {high:.0f})" if told >= 0.5 else f"- ({told:.0%})"


def embed(cache: Path, fashion: Path | None, pacs: Path | None) -> None:
    """Fill the cache, by a process of its own: this one must not load torch."""
    given = {"--fashion": fashion, "--pacs": pacs}
    folders = [word for name, folder in given.items() if folder for word in (name, str(folder))]
    if folders:
        command = [sys.executable, "-m", "benchmarks.drift_pictures", str(cache), *folders]
        subprocess.run(command, check=True)


def main() -> None:
    """Embed, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path, help="where embeddings are kept")
    parser.add_argument("--fashion", type=Path, help="the folder of the idx files")
    parser.add_argument("--pacs", type=Path, help="DIR/domain/class/*.jpg")
    parser.add_argument("--out", type=Path, help="the figures as JSON")
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name}", type=int, default=value, help="see Plan")
    options = parser.parse_args()
    embed(options.cache, options.fashion, options.pacs)
    plan = Plan(options.streams, options.images, options.changes, options.after)
    pools = {name: Pool.read(options.cache / f"{name}.npz") for name in ("fashion", "pacs-photo")}
    found = delays(options.cache, plan)
    alarms = false_alarms(pools, plan)
    show(alarms, found)
    if options.out:
        options.out.write_text(json.dumps({"false": alarms, "delay": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
