"""Methods without labels where the known classes are drawn anew for every seed.

`python -m benchmarks.class_choices FOLDER --size 6 --seeds 5 --out DIR` does once a seed what `adaptsvc
eval --guard` does on FOLDER, with so many known classes drawn at random and the images halved by the same
seed; then it prints the tables over the seeds, and each seed's H. One choice of known classes may be easy
or hard as a whole, so open-set recognition averages over random ones (Neal et al., "Open Set Learning with
Counterfactual Images", ECCV 2018). A run in DIR goes on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from adaptsvc import config
from adaptsvc.errors import ConfigError
from adaptsvc.evaluation.data import Tree, prompt_name, read_tree
from adaptsvc.evaluation.journal import Result
from adaptsvc.evaluation.methods import UNLABELED
from adaptsvc.evaluation.plan import Request, comma_list, parse_seeds
from adaptsvc.evaluation.run import measured, methods
from adaptsvc.evaluation.split import SETTINGS
from adaptsvc.evaluation.summary import summarise
from adaptsvc.evaluation.table import tables
from adaptsvc.processes import stop_on_signals


def request(tree: Tree, options: argparse.Namespace, seed: int) -> Request:
    """What is measured with one seed: every setting, on every domain.

    Raises:
        ConfigError: fewer than 2 classes to be known, or none left to be unknown.
    """
    if not 2 <= options.size < len(tree.classes):
        raise ConfigError(
            f"--size is {options.size}; expected 2 to {len(tree.classes) - 1} of the {len(tree.classes)} "
            f"classes of {tree.root}"
        )
    known = random.Random(seed).sample(tree.classes, options.size)
    return Request(
        tree=tree,
        known=tuple(known),
        extra=(),
        domains=tuple(tree.domains),
        methods=methods(comma_list(options.method)),
        settings=SETTINGS,
        seeds=(seed,),
        guard=not options.no_guard,
        out=options.out / f"seed-{seed}",
    )


def by_seed(results: Sequence[Result], known: dict[int, tuple[str, ...]]) -> Table:
    """H in %, mean over domains and settings, of each method; lines are seeds."""
    names = list(dict.fromkeys(result.cell.method for result in results))
    table = Table("seed", "known classes", *names, title="H %, mean of the settings")
    for seed, classes in known.items():
        of = {name: _h(results, seed, name) for name in names}
        table.add_row(str(seed), ", ".join(classes), *(f"{100 * h:.1f}" for h in of.values()))
    return table


def _h(results: Sequence[Result], seed: int, method: str) -> float:
    return mean(r.figures["h"] for r in results if (r.cell.seed, r.cell.method) == (seed, method))


def main() -> None:
    """Draw, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, required=True, help="how many classes are known")
    parser.add_argument("--seeds", default="5", help="comma list, or how many")
    parser.add_argument("--method", default=",".join(UNLABELED), help="comma list")
    parser.add_argument("--passes", type=float, default=2)
    parser.add_argument("--no-guard", action="store_true", help="what is refused counts as it is")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tree, console, stop = read_tree(options.folder), Console(), stop_on_signals()
    results: list[Result] = []
    known: dict[int, tuple[str, ...]] = {}
    for seed in parse_seeds(options.seeds):
        asked = request(tree, options, seed)
        known[seed] = asked.known
        settings = config.read(
            home=asked.out / "cache",
            classes=tuple(map(prompt_name, asked.known)),
            learn={"passes": options.passes},
        )
        console.rule(f"seed {seed}: {', '.join(asked.known)}")
        found, _ = measured(asked, settings, console=console, stop=stop)
        if not found:
            return  # interrupted
        results += found
    for table in (*tables(summarise(results)), by_seed(results, known)):
        console.print(table)


if __name__ == "__main__":
    main()
