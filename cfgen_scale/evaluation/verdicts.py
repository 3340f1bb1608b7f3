"""What the figures say, in plain words: good, fair or poor against the floor of real cells, or a warning."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .protocols import PROTOCOLS

Status = Literal["good", "fair", "poor", "warning"]

# ratio to the floor up to which a distance is good, and up to which it is fair
GOOD_RATIO, FAIR_RATIO = 1.10, 1.35
# below this ratio a distance is too small to be honest: other real cells are further away
COLLAPSE_RATIO = 0.97
# Variance within classes, generated over real. Poisson noise about the mean of each class alone gives 0.60 on
# PBMC3K, at a W2 of 1.03 times the floor: of the two only the variance sees that collapse.
VARIANCE_GOOD, VARIANCE_FAIR = (0.85, 1.2), (0.7, 1.5)
GOOD_AUC, FAIR_AUC = 0.60, 0.80
# precision and recall, the lower of the two over its floor
GOOD_SHARE, FAIR_SHARE = 0.9, 0.75
# Kolmogorov-Smirnov distance beyond that of the floor
GOOD_KS, FAIR_KS = 0.05, 0.15


@dataclass(frozen=True)
class Verdict:
    """One judgement: what was looked at, how it stands, and a sentence with the figures."""

    subject: str
    status: Status
    text: str


def decided_by(protocols: dict[str, Any]) -> dict[str, str]:
    """The W2 a comparison is decided by: neutral and cell-weighted (METHOD 7) if there is such a figure."""
    protocol = next(name for name in PROTOCOLS if name in protocols)
    kind = "conditional_cell_weighted"
    return {
        "protocol": protocol,
        "kind": kind if kind in protocols[protocol] else "unconditional",
        "distance": "w2",
    }


def verdicts(metrics: dict[str, Any]) -> Iterator[Verdict]:
    """Judgements of a finished comparison, the most important first, then what to know before trusting it."""
    yield distance_verdict(metrics)
    yield variance_verdict(metrics)
    yield classifier_verdict(metrics)
    if metrics["manifolds"]["recall"]["ratio"] is not None:
        yield manifold_verdict(metrics)
    yield counts_verdict(metrics)
    if metrics["classes"]["skipped"]:
        yield skipped_classes_verdict(metrics)
    if classes_without_floor(metrics):
        yield missing_floor_verdict(metrics)


def distance_verdict(metrics: dict[str, Any]) -> Verdict:
    subject = "Distance to held-out cells"
    protocol, kind = metrics["decided_by"]["protocol"], metrics["decided_by"]["kind"]
    w2 = metrics["protocols"][protocol][kind]["w2"]
    what = f"W2 ({protocol}, {kind.replace('_', ' ')}) is {w2['value']:.2f}"
    if w2["ratio"] is None:
        return Verdict(
            subject, "warning", f"{what}. Without training cells there is no floor to judge it by."
        )
    against = f"{what}; other real cells reach {w2['floor']:.2f}, so it is {w2['ratio']:.2f} times the floor."
    if w2["ratio"] < COLLAPSE_RATIO:
        below = "Below the floor: a sign of collapse, not a win. Look at the variances."
        return Verdict(subject, "warning", f"{against} {below}")
    return Verdict(subject, _upto(w2["ratio"], GOOD_RATIO, FAIR_RATIO), against)


def variance_verdict(metrics: dict[str, Any]) -> Verdict:
    subject = "Variation within classes"
    ratio = metrics["variance_ratio"]["cell_weighted"]["value"]
    if ratio is None:
        return Verdict(subject, "warning", "No class is shared with the test cells: none could be measured.")
    what = f"generated cells have {ratio:.2f} times the variance of real cells of their class"
    if ratio < VARIANCE_FAIR[0]:
        return Verdict(subject, "warning", f"Collapse: {what}. They are too alike.")
    if VARIANCE_GOOD[0] <= ratio <= VARIANCE_GOOD[1]:
        return Verdict(subject, "good", f"As varied as they should be: {what}.")
    tendency = "Somewhat too alike" if ratio < 1 else "More spread out than real cells"
    return Verdict(subject, "fair" if ratio <= VARIANCE_FAIR[1] else "poor", f"{tendency}: {what}.")


def classifier_verdict(metrics: dict[str, Any]) -> Verdict:
    auc = metrics["two_sample_auc"]
    linear, near = auc["logistic"]["value"], auc["nearest_neighbours"]["value"]
    return Verdict(
        "Telling generated from real",
        _upto(max(linear, near), GOOD_AUC, FAIR_AUC),
        f"A classifier that has to tell them apart reaches an AUC of {linear:.2f} (logistic) and {near:.2f} "
        "(nearest neighbours); 0.50 is guessing, 1.00 is always right.",
    )


def manifold_verdict(metrics: dict[str, Any]) -> Verdict:
    precision, recall = metrics["manifolds"]["precision"], metrics["manifolds"]["recall"]
    least = min(figure["ratio"] or 0.0 for figure in (precision, recall))
    status: Status = "poor"
    if least >= FAIR_SHARE:
        status = "good" if least >= GOOD_SHARE else "fair"
    return Verdict(
        "Where cells lie",
        status,
        f"{precision['value']:.2f} of the generated cells lie where real ones do (other real cells: "
        f"{precision['floor']:.2f}), and {recall['value']:.2f} of the real ones where generated cells do "
        f"({recall['floor']:.2f}).",
    )


def counts_verdict(metrics: dict[str, Any]) -> Verdict:
    zeros, library = (metrics["moments"][f"{name}_ks"] for name in ("cell_zero_share", "library_size"))
    excess = max(figure["value"] - (figure["floor"] or 0.0) for figure in (zeros, library))
    floor = ""
    if zeros["floor"] is not None:
        floor = f"; other real cells differ by {zeros['floor']:.2f} and {library['floor']:.2f}"
    made = metrics["moments"]["library_size_median"]["value"]
    real = metrics["test_cells"]["library_size_median"]
    return Verdict(
        "Zeros and library sizes",
        _upto(excess, GOOD_KS, FAIR_KS),
        f"Over cells, zeros differ by {zeros['value']:.2f} and library sizes by {library['value']:.2f} "
        f"(Kolmogorov-Smirnov, 0 is equal){floor}. The median generated cell has {made:,.0f} counts, the "
        f"median test cell {real:,.0f}.",
    )


def skipped_classes_verdict(metrics: dict[str, Any]) -> Verdict:
    listed = "; ".join(f"{name} ({why})" for name, why in metrics["classes"]["skipped"].items())
    text = f"Fewer than 2 cells on a side, so left out of conditional figures: {listed}."
    return Verdict("Classes left out", "warning", text)


def missing_floor_verdict(metrics: dict[str, Any]) -> Verdict:
    listed = ", ".join(classes_without_floor(metrics))
    text = f"Fewer than 2 real cells were left for the floor of {listed}: its averages are over the others."
    return Verdict("Classes without a floor", "warning", text)


def classes_without_floor(metrics: dict[str, Any]) -> list[str]:
    """Scored classes that too few training cells were left for; none where there are no training cells."""
    if metrics["cells"]["train"] is None:
        return []
    per_class = metrics["protocols"][metrics["decided_by"]["protocol"]].get("per_class", {})
    return [name for name, distances in per_class.items() if distances["w2"]["floor"] is None]


def _upto(value: float, good: float, fair: float) -> Status:
    if value <= good:
        return "good"
    return "fair" if value <= fair else "poor"
