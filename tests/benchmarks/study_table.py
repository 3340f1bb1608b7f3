"""What the study found: means over seeds, and what each row changes, seed by seed."""

import math
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

from tests.benchmarks.study_rows import ROWS

# column: heading and target (None: 1 is best)
COLUMNS: dict[str, tuple[str, float | None]] = {
    "conditional": ("cond.", 1.06),
    "centred": ("centred", 1.06),
    "weighted": ("weighted", 1.06),
    "unconditional": ("uncond.", 1.08),
    "mmd_unbiased": ("MMD² unb.", 0.02),
    "auc": ("AUC", 0.70),
    "zeros_ks": ("zeros KS", 0.08),
    "variance": ("variance", None),
    "variance_lowest": ("lowest", None),
    "variance_highest": ("highest", None),
    "precision": ("precision", None),
    "recall": ("recall", None),
    "markers": ("markers r", None),
    "latent_spread": ("latents", None),
}
Result = dict[str, Any]


def table(results: Sequence[Result], split: str) -> str:
    """Mean and standard deviation over the seeds, data set by data set, in the order of the rows."""
    lines = []
    order = {name: place for place, name in enumerate(ROWS)}
    for dataset in dict.fromkeys(r["dataset"] for r in results):
        of_set = [r for r in results if r["dataset"] == dataset and r["split"] == split]
        head = f"{dataset + ', ' + split + ' cells':<30}{'seeds':>6}"
        lines += ["", head + "".join(f"{heading:>16}" for heading, _ in COLUMNS.values())]
        targets = ["" if target is None else f"<= {target:g}" for _, target in COLUMNS.values()]
        lines.append(f"{'target':<36}" + "".join(f"{target:>16}" for target in targets))
        groups: dict[tuple[str, str], list[Result]] = {}
        for result in of_set:
            groups.setdefault((result["row"], result["digest"]), []).append(result)
        for (name, _), group in sorted(groups.items(), key=lambda item: order.get(item[0][0], len(order))):
            cells = "".join(f"{summary(group, column):>16}" for column in COLUMNS)
            lines.append(f"{name:<30}{len(group):>6}{cells}")
    return "\n".join(lines)


def summary(group: Sequence[Result], column: str) -> str:
    """Mean and spread over the seeds; of distances the mean over the mean floor, as `evaluate` has it: each
    seed has other halves of the training cells, and so a floor of its own."""
    found = [r["figures"] for r in group if r["figures"].get(column) is not None]
    if not found:
        return "-"
    values = [figures[column] for figures in found]
    centre = mean(values)
    if all(f"{column}_floor" in figures for figures in found):
        sums = [sum(figures[f"{column}_{part}"] for figures in found) for part in ("value", "floor")]
        centre = sums[0] / sums[1]
    spread = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{centre:.3f}{spread}"


def off(ratio: float) -> float:
    """How far a ratio is from 1, to whichever side."""
    return abs(math.log(ratio))


def off_half(share: float) -> float:
    """How far a share is from a half, to whichever side."""
    return abs(share - 0.5)


# column of differences: heading, digits, and what of a figure is compared; less is better in all
COMPARED: dict[str, tuple[str, int, Callable[[float], float]]] = {
    "conditional": ("W2 classes", 3, float),
    "centred": ("centred", 3, float),
    "weighted": ("over cells", 3, float),
    "unconditional": ("unconditional", 3, float),
    "mmd_unbiased": ("MMD² unbiased", 4, float),
    "auc": ("AUC", 3, off_half),
    "zeros_ks": ("zeros KS", 3, float),
    "variance": ("variance off 1", 3, off),
    "variance_lowest": ("lowest class off 1", 3, off),
}


def differences(results: Sequence[Result], split: str) -> str:
    """A Markdown table: what each row's figures are more than the default's of the same data set and seed,
    mean over these pairs ± its standard error. Bold where that is more than two standard errors."""
    of_split = [result for result in results if result["split"] == split]
    default = {
        (r["dataset"], r["seed"]): r["figures"] for r in of_split if r["digest"] == ROWS["default"].digest(())
    }
    head = ["", "pairs", *(heading for heading, _, _ in COMPARED.values())]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name in dict.fromkeys(r["row"] for r in of_split if r["row"] != "default"):
        pairs = [
            (r["figures"], default[r["dataset"], r["seed"]])
            for r in of_split
            if r["row"] == name and (r["dataset"], r["seed"]) in default
        ]
        if pairs:
            lines.append([name, str(len(pairs)), *(difference(pairs, column) for column in COMPARED)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def difference(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], column: str) -> str:
    """``+0.012 ± 0.004`` of the pairs (figures of a row, figures of the default) that have this column."""
    _, digits, compared = COMPARED[column]
    found = [
        compared(row[column]) - compared(default[column])
        for row, default in pairs
        if row.get(column) is not None and default.get(column) is not None
    ]
    if not found:
        return "-"
    text = f"{mean(found):+.{digits}f}"
    if len(found) < 2:
        return text
    error = stdev(found) / math.sqrt(len(found))
    text += f" ± {error:.{digits}f}"
    return f"**{text}**" if abs(mean(found)) > 2 * error else text
