"""Colours and type of the report's pictures: readable in print and by colour-blind people."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from .cells import UNTOLD

REAL, GENERATED, FLOOR = "#0072b2", "#d55e00", "#9aa3ad"  # of Okabe and Ito, and a neutral grey
INK, MUTED, GRID = "#1f2933", "#66727f", "#e4e8ec"

# "muted" by Paul Tol, made for qualitative data; the most frequent classes get these, the rest one grey
CLASS_COLOURS = (
    "#332288",
    "#cc6677",
    "#117733",
    "#ddaa33",
    "#88ccee",
    "#882255",
    "#44aa99",
    "#aa4499",
    "#999933",
    "#4477aa",
)
OTHER_CLASSES = "#c3c9d0"

STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": "#b5bcc4",
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


def class_colours(classes: Iterable[str]) -> dict[str, str]:
    """A colour for each of the most frequent values of ``classes`` (n,); the others share OTHER_CLASSES."""
    counted = Counter(name for name in classes if name != UNTOLD)
    names = sorted(counted, key=lambda name: (-counted[name], name))
    known = dict(zip(names, CLASS_COLOURS, strict=False))
    return {name: known.get(name, OTHER_CLASSES) for name in names} | {UNTOLD: OTHER_CLASSES}
