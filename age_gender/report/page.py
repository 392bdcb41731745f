"""Write the report of test.py: a page, its plots, figures.json and tables for the model card.

The texts are Jinja templates beside this file: page.html with style.css, tables.md, and
groups.jinja, which has the titles of the tables in both.
"""

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING

from age_gender import files
from age_gender.cli import require
from age_gender.report import plots
from age_gender.report.measurement import PUBLISHED

if TYPE_CHECKING:
    import pandas as pd


def prepare_folder(folder: Path) -> None:
    """Make the report's folder. Raises InputError if a report cannot be made there."""
    require("the report needs", matplotlib="matplotlib", jinja2="jinja2")
    files.make_folder(folder)


def write(folder: Path, results: dict, table: "pd.DataFrame") -> None:
    """Write the report's files, each atomically, the page last; keep other files in the folder.

    `results` are those of measurement.measure, and "model", "records", "views", "embedder" and
    "by_crop" (a list of measurement.measure_variant, which may be empty), which test.py adds.
    """
    images = plots.draw_all(results, table)
    encoded = {name: base64.b64encode(image).decode() for name, image in images.items()}
    page = render("page.html", results, images=encoded)
    contents = {f"{name}.png": image for name, image in images.items()} | {
        "tables.md": render("tables.md", results).encode(),
        "figures.json": f"{json.dumps(results, indent=2, ensure_ascii=False)}\n".encode(),
        # No line break between a number and its % or "n ="
        "report.html": page.replace(" %", "&nbsp;%").replace("n = ", "n&nbsp;=&nbsp;").encode(),
    }
    for name, content in contents.items():
        with files.atomic_file(folder / name) as stream:
            stream.write(content)


def render(template: str, results: dict, **more) -> str:
    """Return a template of this folder filled with the results."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=jinja2.select_autoescape(),  # in HTML, not in Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = format_figure
    more |= {"whole": results["all"], "published": PUBLISHED}
    return environment.get_template(template).render(results, **more)


def format_figure(
    number: float | dict, form: str, template: str = "{value} ({low} to {high})"
) -> str:
    """Return a number or a figure with its interval as text.

    `form` is a format; the text has a true minus sign and a space before %.
    """
    if isinstance(number, dict):
        return template.format(**{key: format_figure(value, form) for key, value in number.items()})
    return form.format(number).replace("-", "−").replace("%", " %")
