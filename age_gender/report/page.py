"""The report of test.py: a page with plots and tables, figures.json, tables for the model card.

`write` fills a folder with report.html, which needs nothing but itself, the plots as PNG,
figures.json for programs and tables.md. `refresh_card` puts the tables into a model card, which
is what `make card` does for models/pretrained/README.md.
"""

import base64
import importlib.util
import json
from html import escape
from pathlib import Path

from age_gender import outputs
from age_gender.report import plots
from age_gender.report.figures import MEASURES, Faces, as_text, in_text, interval_as_text
from age_gender.report.plots import PUBLISHED_MAE
from age_gender.script import InputError

PUBLISHED_ACCURACY = 0.9645  # like PUBLISHED_MAE, of the original
CARD_START, CARD_END = "<!-- tables: make card -->", "<!-- end of tables -->"
TABLES = {
    "by_true_age": "By age as labelled",
    "by_estimated_age": "By estimated age",
    "by_gender": "By gender as labelled",
    "by_race": "By race as UTKFace labels it",
}
COLUMNS = dict(zip(MEASURES, (
    ("MAE, years", "{:.2f}"),
    ("bias, years", "{:+.2f}"),
    ("gender right", "{:.1%}"),
    ("age in interval", "{:.1%}"),
    ("interval width, years", "{:.1f}"),
), strict=True))  # fmt: skip


def check(folder: Path) -> None:
    """Raise InputError where the report can't be made: before the work, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError("the report needs matplotlib: pip install -r requirements-extra.txt")
    outputs.make_folder(folder)


def write(folder: Path, figures: dict, faces: Faces) -> None:
    """Write the report's files, each whole, the page last; other files in the folder stay.

    `figures` are those of figures.measure, and "model" and "records", which test.py adds.
    """
    images = plots.draw_all(figures, faces)
    texts = {
        "tables.md": markdown(figures),
        "figures.json": json.dumps(figures, indent=2, ensure_ascii=False) + "\n",
        "report.html": page(figures, images),
    }
    contents = {f"{name}.png": image for name, image in images.items()}
    contents |= {name: text.encode() for name, text in texts.items()}
    for name, content in contents.items():
        with outputs.whole_file(folder / name) as stream:
            stream.write(content)


# -------------------------------------------------------------------------- model card


def markdown(figures: dict) -> str:
    """The tables, and what they were measured on, for the model card."""
    model, records, bootstrap = figures["model"], figures["records"], figures["bootstrap"]
    error = figures["probability"]["calibration_error"]
    lines = [
        f"Measured with `test.py --report` on {records['faces']:,} faces of "
        f"`{records['file']}` (sha256 `{records['sha256'][:12]}`), with "
        f"`{model['litert']['file']}` (sha256 `{model['litert']['sha256'][:12]}`). "
        "In brackets: the 95 % bootstrap interval "
        f"({bootstrap['resamples']:,} resamples). MAE is the mean absolute error of the age, bias "
        "its mean signed error (estimate less label). Expected calibration error of "
        f"`female_probability` in ten bins: {as_text(error, '{:.4f}')}.",
    ]
    head = ["n", *(title for title, _ in COLUMNS.values())]
    for key, title in TABLES.items():
        lines += ["", f"| {title} | {' | '.join(head)} |", "| --- |" + " ---: |" * len(head)]
        for row in [*figures[key], figures["all"]]:
            cells = [as_text(row[name], form) for name, (_, form) in COLUMNS.items()]
            lines.append(f"| {row['group']} | {row['n']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def refresh_card(folder: str | Path, card: str | Path) -> None:
    """Put the tables of the report in `folder` between the two marker lines of a model card."""
    text = Path(card).read_text(encoding="utf-8")
    if text.count(CARD_START) != 1 or CARD_END not in text.partition(CARD_START)[2]:
        raise InputError(f"{card}: needs the two lines {CARD_START} and {CARD_END}, once each")
    before, _, rest = text.partition(CARD_START)
    tables = (Path(folder) / "tables.md").read_text(encoding="utf-8")
    after = rest.partition(CARD_END)[2]
    with outputs.whole_file(card, "w", encoding="utf-8") as stream:
        stream.write(f"{before}{CARD_START}\n\n{tables}\n{CARD_END}{after}")


# ---------------------------------------------------------------------------- the page


def page(figures: dict, images: dict[str, bytes]) -> str:
    """report.html: one file, the plots inside it, nothing from elsewhere."""
    whole, records, model = figures["all"], figures["records"], figures["model"]
    n = f"{records['faces']:,}"
    captions = plots.captions(figures)
    plotted = {
        name: f'<figure><img src="data:image/png;base64,{base64.b64encode(image).decode()}" '
        f'width="1000" height="800" alt="{escape(captions[name][0])}">'
        f"<figcaption>{captions[name][1]}</figcaption></figure>"
        for name, image in images.items()
    }
    tables = {name: table(figures, name) for name in TABLES}
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Age and gender from face embeddings: how good are the estimates?</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>Age and gender from face embeddings: how good are the estimates?</h1>
<p class="lead">A small network turns the 512 numbers with which FaceNet describes a face into an
age with an interval, a gender and its probability. This page shows how it does on the {n} faces of
{escape(records["file"])}.</p>
</header>
<main>
<section aria-labelledby="glance">
<h2 id="glance">At a glance</h2>
<div class="tiles">{tiles(figures)}</div>
<p>Each figure is over all {n} faces, like the rows “all” below. The range under it is its 95 %
bootstrap interval: how far it would move if other faces of the same kind had been drawn. The
original is the experiment that these scripts follow; it published its figures on the embeddings of
another FaceNet, so they are a mark to compare with, not a measurement of ours.</p>
<p>In the tables, n is the number of faces and MAE the mean absolute error: by how many years the
age is off. Bias is the mean error with its sign: above zero, estimates are too old. “Gender right”
and “age in interval” are shares of the faces, and the width of the interval is
<code>age_high</code> less <code>age_low</code>. Both ends of a band belong to it.</p>
</section>

<section aria-labelledby="age">
<h2 id="age">Age</h2>
<div class="figures">{plotted["age_estimated_against_true"]}{plotted["age_error_by_band"]}</div>
{tables["by_true_age"]}
<p>Sorted by the <em>label</em>, estimates are pulled to the middle: the young come out too old, the
old too young. That is so wherever an age cannot be told exactly. Sorted by the <em>estimate</em>,
which is what you have when you use the model, the bias should be near zero.</p>
{tables["by_estimated_age"]}
</section>

<section aria-labelledby="interval">
<h2 id="interval">The interval of the age</h2>
<p><code>age_low</code> to <code>age_high</code>, both included, should hold the label of 90 of 100
faces. A narrow interval that holds fewer is as bad as a wide one that holds all.</p>
<div class="figures">{plotted["interval_by_band"]}{plotted["interval_by_level"]}</div>
</section>

<section aria-labelledby="gender">
<h2 id="gender">Gender and its probability</h2>
<p>Of 100 faces with a <code>female_probability</code> of 0.80, 80 should be labelled female.</p>
<div class="figures">{plotted["gender_confusion"]}{plotted["probability"]}</div>
{tables["by_gender"]}
</section>

<section aria-labelledby="race">
<h2 id="race">Where the estimates err more</h2>
<p>UTKFace labels a race; the network never sees it. It stands here for one thing: to show for whom
the estimates are worse. “none” are faces whose name has no such label.</p>
{tables["by_race"]}
</section>

<section aria-labelledby="limits">
<h2 id="limits">What these figures do not tell</h2>
<ul>
<li>{under_ten(records)} The model that comes with the scripts never learnt from a face under 10: it
scores a child as 10 or older, and is sure of it.</li>
<li>The labels are what people saw in photographs, helped by an algorithm. Nobody in them was asked
for an age or a gender, and some labels are wrong: a part of the error is theirs.</li>
<li>UTKFace repeats faces. Where records were split at random, some test faces have a copy in
training, often under another age.</li>
<li>The intervals here know of chance in drawing faces, and of nothing else: not of other cameras,
other places, other ways to crop a face. A group of a few faces has a wide interval; one in which
all estimates are right has an interval without width, and then only its n says how much that
means.</li>
<li>UTKFace, and what is derived from it, is for non-commercial research only. Neither age nor
gender from a photograph is a ground for a decision about a person.</li>
</ul>
</section>

<section aria-labelledby="made">
<h2 id="made">What was measured</h2>
<dl>
<dt>Records</dt><dd>{escape(records["file"])}, {n} faces, sha256
<code>{records["sha256"][:12]}</code>. {strangers(records)}</dd>
<dt>Age, interval, probability</dt><dd>{escape(model["litert"]["file"])}, sha256
<code>{model["litert"]["sha256"][:12]}</code>: the exported model that <code>run.py</code> and a
phone use. Errors are of the age before it is rounded to whole years; bands of the estimated age
are of the rounded one.</dd>
<dt>Loss, and the age softmax before calibration</dt><dd>{escape(model["keras"]["file"])}, sha256
<code>{model["keras"]["sha256"][:12]}</code>. Its ages differ from the exported model's by at most
{model["largest_difference"]:.4f} years. Loss: {as_text(whole["loss"], "{:.2f}")}, n = {n}.</dd>
<dt>Bootstrap</dt><dd>{figures["bootstrap"]["resamples"]:,} resamples of each group's faces, seed
{figures["bootstrap"]["seed"]}; the middle 95 %.</dd>
<dt>For programs</dt><dd><code>figures.json</code> beside this page holds the same figures.</dd>
</dl>
</section>
</main>
</body>
</html>
""".replace(" %", "&nbsp;%")  # a number and its % stay on one line


def tiles(figures: dict) -> str:
    """The figures over all faces, each with its interval and what to compare it with."""
    whole, probability = figures["all"], figures["probability"]
    shown = (
        ("Age, mean absolute error", whole["age_mae"], "{:.2f}", "years",
         f"the original: {PUBLISHED_MAE}"),
        ("Gender right", whole["gender_accuracy"], "{:.1%}", "",
         f"the original: {in_text(PUBLISHED_ACCURACY, '{:.2%}')}"),
        ("Ages inside their interval", whole["interval_coverage"], "{:.1%}", "",
         f"promised: {in_text(figures['interval']['nominal'], '{:.0%}')}"),
        ("Width of the interval", whole["interval_width"], "{:.1f}", "years", "on average"),
        ("Error of the probability", probability["calibration_error"], "{:.3f}", "",
         f"chance alone: about {probability['expected_if_exact']:.3f}"),
    )  # fmt: skip
    return "".join(
        f'<div class="tile"><h3>{title}</h3><p class="value">{in_text(figure["value"], form)} '
        f"<small>{unit}</small></p><p>{interval_as_text(figure, form)}<br>n = {whole['n']:,}<br>"
        f"{compare}</p></div>"
        for title, figure, form, unit, compare in shown
    )


def table(figures: dict, key: str) -> str:
    """One of TABLES, with a row for all faces; it scrolls by itself where it is too wide."""
    titles = "".join(f'<th scope="col">{title}</th>' for title, _ in COLUMNS.values())
    lines = []
    for row in [*figures[key], figures["all"]]:
        cells = "".join(
            f"<td>{in_text(row[name]['value'], form)}"
            f"<small>{interval_as_text(row[name], form)}</small></td>"
            for name, (_, form) in COLUMNS.items()
        )
        lines.append(f'<tr><th scope="row">{row["group"]}</th><td>{row["n"]:,}</td>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" aria-label="{TABLES[key]}" tabindex="0"><table>'
        f"<caption>{TABLES[key]}</caption><thead><tr><td></td>"
        f'<th scope="col">n</th>{titles}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def under_ten(records: dict) -> str:
    children = records["under_10"]
    return f"{children:,} of these faces are under 10." if children else "No face here is under 10."


def strangers(records: dict) -> str:
    count = records["strangers"]
    if not count:
        return "All are the kind of embedding that the model knows."
    return f"{count:,} of them are unlike the embeddings that the model was trained on."


STYLE = """
:root { color-scheme: light; --ink: #1c2127; --soft: #4d5761; --line: #d9dee4; --blue: #1f5a94; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 1rem 4rem; max-width: 68rem; color: var(--ink);
  background: #fff; font: 1.05rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto,
  "Liberation Sans", Arial, sans-serif; overflow-wrap: break-word; }
p, ul, dl { max-width: 44rem; }
h1 { margin: 2.5rem 0 .75rem; font-size: clamp(1.6rem, 1.2rem + 2vw, 2.3rem);
  line-height: 1.2; text-wrap: balance; }
h2 { margin: 0 0 .75rem; font-size: 1.4rem; line-height: 1.3; }
section { margin-top: 2.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.lead { font-size: 1.15rem; color: var(--soft); }
.tiles { display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.tile { padding: .9rem 1rem; background: #f3f6f9; border-radius: .5rem; }
.tile h3 { margin: 0; font-size: .9rem; font-weight: 600; }
.tile p { margin: 0; font-size: .9rem; color: var(--soft); }
.tile .value { color: var(--blue); font-size: 1.7rem; font-weight: 650; line-height: 1.5; }
.value small { font-size: 1rem; font-weight: 400; }
.figures { display: grid; gap: 1.5rem 2rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; }
figcaption { margin-top: .4rem; color: var(--soft); font-size: .92rem; line-height: 1.5; }
.scroll { margin: 1.5rem 0 1rem; overflow-x: auto;  /* a shadow where there is more to see */
  background: linear-gradient(90deg, #fff0, #fff 75%) 100% 0 / 3rem 100% no-repeat local,
    linear-gradient(90deg, #fff0, #1c212733) 100% 0 / 1rem 100% no-repeat scroll; }
.scroll:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums;
  font-size: .95rem; line-height: 1.35; }
caption { padding-bottom: .5rem; font-weight: 650; text-align: left; }
th, td { padding: .45rem .75rem; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { color: var(--soft); font-size: .88rem; vertical-align: bottom; white-space: normal; }
tbody tr { border-top: 1px solid var(--line); }
tbody tr:last-child { border-top: 2px solid var(--soft); }
tbody th { position: sticky; left: 0; background: #fff; text-align: left; font-weight: 600; }
td small { display: block; color: var(--soft); font-size: .82rem; }
li { margin-bottom: .5rem; }
dt { font-weight: 650; }
dd { margin: 0 0 .75rem; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
@media (max-width: 40rem) { th, td { padding-inline: .4rem; } }
@media print { section { break-inside: avoid-page; } body { max-width: none; } }
"""
