"""Draw the plots of the report as PNG; plots.mplstyle has their style, page.html the captions.

Each draws what figures.py measured; five by four inches, so that the letters can still be read
where a phone shows it. matplotlib is imported as late as the first plot.
"""

import io
import itertools
from operator import itemgetter
from pathlib import Path

import numpy as np

from age_gender.labels import GENDERS
from age_gender.report.figures import BANDS, PUBLISHED

BLUE, ORANGE, GREY = "#1f5a94", "#b3470f", "#5b6570"  # distinguishable for colour-blind readers too
FIRST, SECOND = {"color": BLUE, "marker": "o"}, {"color": ORANGE, "marker": "s"}


def draw_all(figures: dict, faces) -> dict[str, bytes]:
    """Return each plot's name and its PNG of 1,000 x 800 pixels."""
    import matplotlib
    from matplotlib.figure import Figure

    images = {}
    for draw in (age_estimated_against_true, age_error_by_band, gender_confusion, interval_by_band,
                 probability, *[crops] * bool(figures["by_crop"])):  # fmt: skip
        with matplotlib.rc_context(fname=Path(__file__).with_suffix(".mplstyle")):
            figure = Figure(figsize=(5, 4), dpi=200, layout="constrained")
            draw(figure.add_subplot(), figures, faces)
            image = io.BytesIO()
            figure.savefig(image, format="png")
        images[draw.__name__] = image.getvalue()
    return images


def overview(faces) -> bytes:
    """Return the PNG of README's picture: ages with their interval, genders by certainty.

    Two panels for readers who have not seen a report: each face's labelled age over its estimated
    age with the mean interval around it, and how often genders are right, by their probability.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(fname=Path(__file__).with_suffix(".mplstyle")):
        figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
        ages, genders = figure.subplots(1, 2)

        # Left: ages. The interval depends on the estimate: its mean ends over bins of five years.
        bins = (faces.estimate // 5).astype(int)
        ends = faces.groupby(bins)[["estimate", "low", "high"]].mean()
        ages.fill_between(ends.estimate, ends.low, ends.high, color=BLUE, alpha=0.15,
                          label="90 % interval (mean)")  # fmt: skip
        ages.scatter(faces.estimate, faces.age, s=5, color=BLUE, alpha=0.35, linewidths=0,
                     label="a face")  # fmt: skip
        ages.plot([0, 100], [0, 100], color=ORANGE, linewidth=1.2, label="label = estimate")
        ages.set(xlim=(0, 100), ylim=(0, 105), xlabel="estimated age, years",
                 ylabel="age as labelled, years")  # fmt: skip
        ages.set_title(f"Age of {len(faces):,} test faces", fontsize=12)
        ages.legend(loc="upper left")

        # Right: genders
        certainty = np.maximum(faces.probability, 1 - faces.probability)
        edges = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0])
        bin_index = np.clip(np.searchsorted(edges, certainty, side="right") - 1, 0, len(edges) - 2)
        right = 100 * faces.gender_accuracy.groupby(bin_index).mean().reindex(range(len(edges) - 1))
        count = np.bincount(bin_index, minlength=len(edges) - 1)
        genders.bar(range(len(count)), right, color=BLUE, alpha=0.8)
        for bar, (percent, number) in enumerate(zip(right, count, strict=True)):
            if number:
                genders.text(bar, percent + 1, f"{number:,}", ha="center", fontsize=9, color=GREY)
        names = [f"{100 * a:.0f}\u2013{100 * b:.0f}" for a, b in itertools.pairwise(edges)]
        genders.set_xticks(range(len(names)), names)
        genders.grid(axis="x", visible=False)
        genders.set(ylim=(0, 108), xlabel="probability of the gender that is printed, %",
                    ylabel="gender is as labelled, % of faces")  # fmt: skip
        genders.set_title("Gender by certainty, with numbers of faces", fontsize=12)
        image = io.BytesIO()
        figure.savefig(image, format="png")
    return image.getvalue()


def age_estimated_against_true(axes, figures: dict, faces) -> None:
    """Draw the density of estimated ages over labelled ones."""
    end = 5 * np.ceil(max(faces.age.max(), faces.estimate.max(), 80) / 5)
    axes.grid(False)
    cells = axes.hexbin(faces.age, faces.estimate, extent=(0, end, 0, end), gridsize=36, mincnt=1,
                        bins="log", cmap="Blues", vmin=0.6, linewidths=0.2)  # fmt: skip
    axes.figure.colorbar(cells, ax=axes, label="faces in a cell", format="%d", pad=0.02)
    axes.plot([0, end], [0, end], color=ORANGE, linewidth=1.2, label="estimate = label")
    axes.set(xlim=(0, end), ylim=(0, end), aspect="equal",
             xlabel="age as labelled, years", ylabel="estimated age, years")  # fmt: skip
    axes.legend(loc="upper left")


def age_error_by_band(axes, figures: dict, faces) -> None:
    """Draw the mean absolute error of each band of labelled ages."""
    rows, mean = figures["by_true_age"], figures["all"]["age_mae"]["value"]
    points(axes, range(len(rows)), rows, "age_mae", "in this band", scale=1, **FIRST)
    published = PUBLISHED["mae"]
    original = f"the original, all faces: {published}"
    axes.axhline(mean, color=BLUE, linewidth=1, label=f"all faces: {mean:.2f}")
    axes.axhline(published, color=ORANGE, linestyle="--", linewidth=1.2, label=original)
    band_axis(axes, [f"{row['group']}\nn = {row['n']:,}" for row in rows])
    axes.set(xlabel="age as labelled, years", ylabel="mean absolute error, years")
    axes.set_ylim(0, 1.3 * max(published, *(row["age_mae"]["high"] for row in rows)))
    axes.legend(loc="upper left")


def gender_confusion(axes, figures: dict, faces) -> None:
    """Draw the confusion matrix of the genders."""
    counts = np.array(figures["gender_confusion"])
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals[:, None], 1)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.25)
    for (label, guess), share in np.ndenumerate(shares):
        axes.text(guess, label, f"{counts[label, guess]:,}\n{100 * share:.1f} %", fontsize=14,
                  ha="center", va="center", color="white" if share > 0.6 else "black")  # fmt: skip
    axes.tick_params(length=0)
    axes.set_xticks([0, 1], GENDERS)
    axes.set_yticks([0, 1], [f"{GENDERS[i]}\nn = {totals[i]:,}" for i in (0, 1)])
    axes.set(xlabel="estimated", ylabel="as labelled")


def interval_by_band(axes, figures: dict, faces) -> None:
    """Draw how many labels the interval holds, by bands of estimated and of labelled age."""
    nominal = 100 * figures["nominal"]
    axes.axhspan(nominal - 2, nominal + 2, color="#dfe8f1", zorder=0, label="88 to 92 %")
    axes.axhline(nominal, color=GREY, linewidth=1, label=f"nominal: {nominal:.0f} %")
    by_estimate, by_label = figures["by_estimated_age"], figures["by_true_age"]
    both = by_estimate + by_label
    groups = [name for name in BANDS if name in {row["group"] for row in both}]
    for rows, shift, label, style in ((by_estimate, -0.12, "band of the estimate", FIRST),
                                      (by_label, 0.12, "band of the label", SECOND)):  # fmt: skip
        positions = [groups.index(row["group"]) + shift for row in rows]
        points(axes, positions, rows, "interval_coverage", label, **style)
    band_axis(axes, groups)
    axes.set_ylim(min(70, *(100 * row["interval_coverage"]["low"] - 2 for row in both)), 101)
    axes.set(xlabel="age, years", ylabel="labels inside the interval, %")
    axes.legend(loc="lower left", ncols=2, fontsize=9)


def probability(axes, figures: dict, faces) -> None:
    """Draw the reliability diagram of female_probability."""
    bins = figures["probability"]["bins"]
    positions = [100 * part["probability"] for part in bins]
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, label="exact")
    points(axes, positions, bins, "female", "faces of one bin", **FIRST)
    for position, part in zip(positions, bins, strict=True):
        below = part["female"]["value"] > 0.5
        end, away, side = ("low", -4, "top") if below else ("high", 4, "bottom")
        axes.annotate(f"{part['n']:,}", (position, 100 * part["female"][end]), (0, away),
                      textcoords="offset points", fontsize=9, color=GREY,
                      ha="center", va=side)  # fmt: skip
    axes.set(xlim=(-3, 103), ylim=(-3, 103), aspect="equal",
             xlabel="female_probability, %", ylabel="labelled female, %")  # fmt: skip
    axes.legend(loc="lower right")


def crops(axes, figures: dict, faces) -> None:
    """Draw how many genders are right through each crop."""
    rows = figures["by_crop"][::-1]  # the first one at the top
    for gender, shift, style in (("male", 0.12, FIRST), ("female", -0.12, SECOND)):
        key = f"{gender}_right"  # every crop has it, or none
        if key in rows[0]:
            positions = np.arange(len(rows)) + shift
            points(axes, positions, rows, key, f"labelled {gender}", across=True, **style)
    axes.set_yticks(range(len(rows)), [row["group"] for row in rows], fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="gender right, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, fontsize=9)


def points(
    axes, positions, rows: list[dict], key: str, label: str, scale=100, across=False, **style
) -> None:
    """Plot a figure of each row with its interval, at `positions` on the x axis, or the y axis."""
    ends = itemgetter("value", "low", "high")
    value, low, high = scale * np.array([ends(row[key]) for row in rows]).T
    bars = np.maximum(0, [value - low, high - value])
    data = (value, positions, None, bars) if across else (positions, value, bars)
    axes.errorbar(*data, label=label, linestyle="none", **style)


def band_axis(axes, names: list[str]) -> None:
    """Label the x axis with the names of the bands."""
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", labelsize=10, length=0)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.5, len(names) - 0.5)
