"""Draw the plots of the report as PNG; plots.mplstyle has their style, page.html the captions.

Each plot shows what measurement.py measured. It is five by four inches, so that its text is
readable on a phone. matplotlib is imported with the first plot.
"""

import io
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from age_gender.labels import GENDERS
from age_gender.report.measurement import BANDS, PUBLISHED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

BLUE, ORANGE, GREY = "#1f5a94", "#b3470f", "#5b6570"  # distinguishable for colour-blind readers too
FIRST_SERIES, SECOND_SERIES = {"color": BLUE, "marker": "o"}, {"color": ORANGE, "marker": "s"}


def draw_all(results: dict, table: "pd.DataFrame") -> dict[str, bytes]:
    """Return each plot's name and its PNG of 1,000 x 800 pixels."""
    plots: dict[str, Callable] = {
        "age_estimated_against_true": lambda axes: draw_ages(axes, table),
        "age_error_by_band": lambda axes: draw_age_errors(axes, results),
        "gender_confusion": lambda axes: draw_confusion(axes, results["gender_confusion"]),
        "interval_by_band": lambda axes: draw_interval_coverage(axes, results),
        "probability": lambda axes: draw_reliability(axes, results["probability"]["bins"]),
    }
    if results["by_crop"]:
        plots["crops"] = lambda axes: draw_crops(axes, results["by_crop"])
    return {name: draw_figure(draw, (5, 4), dpi=200) for name, draw in plots.items()}


def draw_figure(draw: Callable, inches: tuple[int, int], dpi: int, columns: int = 1) -> bytes:
    """Return a figure in the style of the plots as PNG; `draw` takes the axes of its columns."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=Path(__file__).with_suffix(".mplstyle")):
        figure, image = Figure(figsize=inches, dpi=dpi, layout="constrained"), io.BytesIO()
        draw(*figure.subplots(1, columns, squeeze=False)[0])
        figure.savefig(image, format="png")
    return image.getvalue()


def draw_ages(axes: "Axes", table: "pd.DataFrame") -> None:
    """Draw the density of estimated ages over labelled ones."""
    end = 5 * np.ceil(max(table.age.max(), table.estimate.max(), 80) / 5)
    axes.grid(False)
    style = {"bins": "log", "cmap": "Blues", "vmin": 0.6, "linewidths": 0.2}
    grid = {"extent": (0, end, 0, end), "gridsize": 36, "mincnt": 1}
    cells = axes.hexbin(table.age, table.estimate, **grid, **style)
    axes.figure.colorbar(cells, ax=axes, label="faces in a cell", format="%d", pad=0.02)
    axes.plot([0, end], [0, end], color=ORANGE, linewidth=1.2, label="estimate = label")
    axes.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    axes.set(xlabel="age as labelled, years", ylabel="estimated age, years")
    axes.legend(loc="upper left")


def draw_age_errors(axes: "Axes", results: dict) -> None:
    """Draw the mean absolute error of each band of labelled ages."""
    rows, mean = results["by_true_age"], results["all"]["age_mae"]["value"]
    plot_points(axes, range(len(rows)), rows, "age_mae", "in this band", scale=1, **FIRST_SERIES)
    published = PUBLISHED["mae"]
    original = f"the original, all faces: {published}"
    axes.axhline(mean, color=BLUE, linewidth=1, label=f"all faces: {mean:.2f}")
    axes.axhline(published, color=ORANGE, linestyle="--", linewidth=1.2, label=original)
    label_bands(axes, [f"{row['group']}\nn = {row['n']:,}" for row in rows])
    axes.set(xlabel="age as labelled, years", ylabel="mean absolute error, years")
    axes.set_ylim(0, 1.3 * max(published, *(row["age_mae"]["high"] for row in rows)))
    axes.legend(loc="upper left")


def draw_confusion(axes: "Axes", confusion: list[list[int]]) -> None:
    """Draw the confusion matrix of the genders."""
    counts = np.array(confusion)
    totals = counts.sum(axis=1)
    fractions = counts / np.maximum(totals[:, None], 1)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1.25)
    for (label, estimate), fraction in np.ndenumerate(fractions):
        text = f"{counts[label, estimate]:,}\n{100 * fraction:.1f} %"
        color = "white" if fraction > 0.6 else "black"
        axes.text(estimate, label, text, fontsize=14, ha="center", va="center", color=color)
    axes.tick_params(length=0)
    axes.set_xticks([0, 1], GENDERS)
    axes.set_yticks([0, 1], [f"{GENDERS[i]}\nn = {totals[i]:,}" for i in (0, 1)])
    axes.set(xlabel="estimated", ylabel="as labelled")


def draw_interval_coverage(axes: "Axes", results: dict) -> None:
    """Draw the fraction of labels inside the interval, by estimated and by labelled age."""
    nominal = 100 * results["nominal"]
    axes.axhspan(nominal - 2, nominal + 2, color="#dfe8f1", zorder=0, label="88 to 92 %")
    axes.axhline(nominal, color=GREY, linewidth=1, label=f"nominal: {nominal:.0f} %")
    by_estimate, by_label = results["by_estimated_age"], results["by_true_age"]
    both = by_estimate + by_label
    groups = [name for name in BANDS if name in {row["group"] for row in both}]
    for rows, shift, label, style in (
        (by_estimate, -0.12, "band of the estimate", FIRST_SERIES),
        (by_label, 0.12, "band of the label", SECOND_SERIES),
    ):
        positions = [groups.index(row["group"]) + shift for row in rows]
        plot_points(axes, positions, rows, "interval_coverage", label, **style)
    label_bands(axes, groups)
    axes.set_ylim(min(70, *(100 * row["interval_coverage"]["low"] - 2 for row in both)), 101)
    axes.set(xlabel="age, years", ylabel="labels inside the interval, %")
    axes.legend(loc="lower left", ncols=2, fontsize=9)


def draw_reliability(axes: "Axes", bins: list[dict]) -> None:
    """Draw the reliability diagram of female_probability."""
    positions = [100 * row["probability"] for row in bins]
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, label="exact")
    plot_points(axes, positions, bins, "female", "faces of one bin", **FIRST_SERIES)
    style = {"textcoords": "offset points", "fontsize": 9, "color": GREY, "ha": "center"}
    for position, row in zip(positions, bins, strict=True):
        is_below = row["female"]["value"] > 0.5
        end, offset, side = ("low", -4, "top") if is_below else ("high", 4, "bottom")
        tip = position, 100 * row["female"][end]
        axes.annotate(f"{row['n']:,}", tip, (0, offset), va=side, **style)
    axes.set(xlim=(-3, 103), ylim=(-3, 103), aspect="equal")
    axes.set(xlabel="female_probability, %", ylabel="labelled female, %")
    axes.legend(loc="lower right")


def draw_crops(axes: "Axes", by_crop: list[dict]) -> None:
    """Draw how many genders are right through each crop."""
    rows = by_crop[::-1]  # the first one at the top
    for gender, shift, style in (("male", 0.12, FIRST_SERIES), ("female", -0.12, SECOND_SERIES)):
        key = f"{gender}_right"  # every crop has it, or none
        if key in rows[0]:
            positions = np.arange(len(rows)) + shift
            plot_points(axes, positions, rows, key, f"labelled {gender}", is_vertical=True, **style)
    axes.set_yticks(range(len(rows)), [row["group"] for row in rows], fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="gender right, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=9)


def plot_points(
    axes: "Axes",
    positions: Sequence[float],
    rows: list[dict],
    key: str,
    label: str,
    scale: float = 100,
    is_vertical: bool = False,
    **style,
) -> None:
    """Plot a figure of each row with its interval, at `positions` on the x axis, or the y axis."""
    ends = itemgetter("value", "low", "high")
    value, low, high = scale * np.array([ends(row[key]) for row in rows]).T
    bars = np.maximum(0, [value - low, high - value])
    data = (value, positions, None, bars) if is_vertical else (positions, value, bars)
    axes.errorbar(*data, label=label, linestyle="none", **style)


def label_bands(axes: "Axes", names: list[str]) -> None:
    """Label the x axis with the names of the bands."""
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", labelsize=10, length=0)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.5, len(names) - 0.5)
