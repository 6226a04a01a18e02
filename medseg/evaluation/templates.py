"""The templates of the reports. What is put into one is escaped, unless another template or a drawing of ours made it.

Names come from files and bundles: besides HTML, control characters and marks that turn the direction of text are shown as
escapes too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup

from medseg.errors import printable

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #8884; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #8884; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.quiet { opacity: .7; font-size: .9em; }
.scroll { overflow-x: auto; }
figure { margin: .8rem 0; display: inline-block; vertical-align: top; max-width: 100%; }
figcaption { font-size: .85em; opacity: .8; }
img, svg { max-width: 100%; height: auto; }
svg { background: white; }
.yes::before { content: "\\2713  "; color: #009E73; }
.no::before { content: "\\2717  "; color: #D55E00; }
.unknown::before { content: "?  "; }
"""

TEMPLATES = {
    "text": "<p{% if quiet %} class=quiet{% endif %}>{{ words }}</p>",
    "table": (
        '<div class="scroll"><table><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>'
        "{% for row in rows %}<tr>{% for number, value in row %}"
        '<td{% if number %} class="number"{% endif %}>{{ value }}</td>{% endfor %}</tr>{% endfor %}</table></div>'
    ),
    "folded": "<details><summary>{{ words }}</summary>{% for part in inside %}{{ part }}{% endfor %}</details>",
    "figure": (
        '<figure>{% if picture.startswith(\'data:\') %}<img src="{{ picture }}" alt="{{ caption }}">'
        "{% else %}{{ picture }}{% endif %}<figcaption>{{ caption }}</figcaption></figure>"
    ),
    "marks": (
        "<table>{% for mark, name, text in rows %}"
        '<tr><td class="{{ mark }}">{{ name }}</td><td>{{ text }}</td></tr>{% endfor %}</table>'
    ),
    "page": (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>'
        '<meta name="viewport" content="width=device-width"><style>{{ style }}</style></head><body>'
        "<h1>{{ title }}</h1><p class=quiet>{{ subtitle }}</p>"
        "{% for section in sections %}<section><h2>{{ section.title }}</h2>"
        "{% for part in section.parts %}{{ part }}{% endfor %}</section>{% endfor %}"
        "<p class=quiet>written by medseg {{ version }}; a research tool, not a medical device</p></body></html>"
    ),
}


def markup(text: str) -> Markup:
    """HTML that we made ourselves."""
    return Markup(text)


def render(template: str, **values: Any) -> Markup:
    """A part of a page, or a page.

    Raises:
        jinja2.UndefinedError: a value that the template needs is missing.

    Example:
        >>> str(render("text", words="<b>liver</b>", quiet=False))
        '<p>&lt;b&gt;liver&lt;/b&gt;</p>'
    """
    return markup(_environment().get_template(template).render(style=markup(STYLE), **values))


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.DictLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown
    )


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else printable(str(value), lines=True)
