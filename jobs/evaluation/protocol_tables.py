"""What the protocols of guidance found, as rows of a file and as lines for a terminal."""

from typing import Any


def intersection_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for the real cells of each pair, and one for each weight."""
    rows = []
    for of_pair in document["pairs"]:
        names = dict(zip(document["attributes"], of_pair["pair"], strict=True))
        real = of_pair["real"]
        shown = {
            "probability_first": real["probability_first"],
            "probability_second": real["probability_second"],
        }
        rows.append(names | {"cells": "real, held out", "weight": ""} | shown | {"variance_ratio": 1.0})
        rows += [
            names
            | {"cells": "generated", "weight": made["weight"]}
            | {name: made[name] for name in (*shown, "variance_ratio")}
            for made in of_pair["generated"]
        ]
    return rows


def intersection_table(document: dict[str, Any]) -> str:
    """The pairs as lines of fixed width, for a terminal."""
    lines = [f"{'pair':<44}{'cells':<16}{'weight':>7}{'p(first)':>10}{'p(second)':>11}{'variance':>10}"]
    first, second = document["attributes"]
    for row in intersection_rows(document):
        pair = f"{row[first]} x {row[second]}" if row["weight"] == "" else ""
        lines.append(
            f"{pair:<44}{row['cells']:<16}{row['weight']:>7}{row['probability_first']:>10.2f}"
            f"{row['probability_second']:>11.2f}{row['variance_ratio']:>10.2f}"
        )
    reached = sum(of_pair["reached"] is not None for of_pair in document["pairs"])
    lines.append(
        f"reached by some weight (both probabilities at least the real ones', variance within 20 %): "
        f"{reached} of {len(document['pairs'])} pairs"
    )
    return "\n".join(lines)


def guidance_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each combination of weights: weights, W2 and MMD with their floors, variance ratio."""
    rows = []
    for row in document["rows"]:
        line: dict[str, Any] = dict(zip(document["attributes"], row["weights"], strict=True))
        for kind in ("conditional", "conditional_cell_weighted", "unconditional"):
            for distance in ("w2", "mmd2_unbiased"):
                figure = row[kind][distance]
                line |= {f"{kind}_{distance}": figure["value"], f"{kind}_{distance}_floor": figure["floor"]}
        rows.append(line | {"variance_ratio": row["variance_ratio"]["value"]})
    return rows


def guidance_table(document: dict[str, Any]) -> str:
    """The grid as lines of fixed width, for a terminal: ratios of W2 to floors, and what MMD says."""
    names = document["attributes"]
    kinds = ("conditional", "conditional_cell_weighted", "unconditional")
    head = "".join(f"{name[:14]:>16}" for name in names)
    lines = [
        f"{head}{'W2 / floor':>14}{'cell-weighted':>15}{'unconditional':>15}{'MMD² unb.':>11}{'variance':>10}"
    ]
    for row in document["rows"]:
        line = "".join(f"{weight:>16g}" for weight in row["weights"])
        for kind, width in zip(kinds, (14, 15, 15), strict=True):
            line += f"{row[kind]['w2']['ratio']:>{width}.3f}"
        unbiased = row["conditional_cell_weighted"]["mmd2_unbiased"]["value"]
        lines.append(line + f"{unbiased:>11.4f}{row['variance_ratio']['value']:>10.2f}")
    return "\n".join(lines)
