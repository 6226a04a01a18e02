"""The templates of the reports. What is put into one is escaped, unless another template or a drawing of ours made it.

Names come from files and bundles: besides HTML, control characters and marks that turn the direction of text are shown as
escapes too.
"""

from __future__ import annotations

from functools import cache

import jinja2
from markupsafe import Markup

from medseg.errors import printable

# Every text has 4.5:1 against its page in both themes; a test measures it.
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #16181d; --quiet: #565b66; --rule: #b9bdc6; --link: #0b57a8;
  --yes: #00684a; --no: #a03c00; }
@media (prefers-color-scheme: dark) { :root { --page: #16181d; --ink: #eceef2; --quiet: #a9aeb9; --rule: #4a4f5a;
  --link: #8fc1ff; --yes: #4cd3a5; --no: #ff9a5c; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
  background: var(--page); }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid var(--rule); }
a { color: var(--link); }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid var(--rule); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.quiet { color: var(--quiet); font-size: .9em; }
.scroll { overflow-x: auto; }
figure { margin: .8rem 0; display: inline-block; vertical-align: top; max-width: 100%; }
figcaption { font-size: .85em; color: var(--quiet); }
figure:target { outline: 3px solid var(--link); }
img, svg { max-width: 100%; height: auto; }
summary { cursor: pointer; }
.yes::before { content: "\\2713  "; color: var(--yes); }
.no::before { content: "\\2717  "; color: var(--no); }
.unknown::before { content: "?  "; }
@media (max-width: 40rem) { th, td { padding: .2rem .35rem; font-size: .85em; } }
@media print { details > * { display: block; } }
"""
# Nothing is fetched, and nothing runs but the viewer's two scripts, which a page with volumes names by their hashes.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none';"

VIEWER = """
<p id="viewer-failed" class="quiet" role="status" hidden></p>
<div id="viewer" role="group" aria-label="viewer" hidden>
<h3 id="viewer-title"></h3>
<div id="viewer-stage"><canvas id="viewer-canvas" tabindex="0" role="img" aria-label="Planes through the volume"
 aria-describedby="viewer-keys"></canvas></div>
<p class="quiet"><strong>Radiological display: the patient's right is at the left</strong> of the axial and coronal planes;
 in the sagittal plane the nose is at the left. The letters at the rims say it for each plane.</p>
<p id="viewer-place"></p><p id="viewer-say" role="status"></p>
<div id="viewer-side">
<label><input type="checkbox" id="viewer-prediction" checked> prediction</label>
<label><input type="checkbox" id="viewer-reference"> reference</label>
<label><input type="checkbox" id="viewer-disagreement"> disagreement</label>
<label>opacity <input type="range" id="viewer-opacity" min="0" max="1" step="0.05" value="0.45"></label>
<label>window <select id="viewer-window"></select></label>
<label>from <input type="number" id="viewer-low" step="any"></label>
<label>to <input type="number" id="viewer-high" step="any"></label>
<label>view <select id="viewer-view"></select></label>
<label><input type="checkbox" id="viewer-crosshair" checked> crosshair</label>
<label><input type="checkbox" id="viewer-picture"> picture below</label>
</div>
<div id="viewer-legend-box" tabindex="0" role="region" aria-label="labels"><table id="viewer-legend">
<thead><tr><th>label</th><th>prediction</th><th>reference</th><th></th></tr></thead><tbody></tbody></table></div>
<div id="viewer-notes" class="quiet"></div>
<p id="viewer-keys" class="quiet">Keys in the planes: arrows and Page Up, Page Down move the crosshair by a voxel; p, r, d show
 prediction, reference, disagreement; w next window, v next view, c crosshair. Tab leads to every control.</p>
<details><summary>NiiVue 0.69.0: licences</summary><pre>{{ viewer.files.licences }}</pre></details>
</div>
<script type="application/json" id="viewer-cases">{{ viewer.cases }}</script>
{% for name, text in viewer.blocks %}<script type="application/gzip" id="{{ name }}">{{ text }}</script>
{% endfor %}<script type="application/gzip" id="viewer-engine">{{ viewer.files.engine }}</script>
<script>{{ script }}</script>
"""

TEMPLATES = {
    "text": "<p{% if quiet %} class=quiet{% endif %}>{{ words }}</p>",
    "table": (
        '<div class="scroll"><table><tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>'
        "{% for row in rows %}<tr>{% for cell in row %}"
        '<td{% if cell.number %} class="number"{% endif %}>'
        '{% if cell.link %}<a href="#{{ cell.link }}">{{ cell.text }}</a>{% else %}{{ cell.text }}{% endif %}</td>'
        "{% endfor %}</tr>{% endfor %}</table></div>"
    ),
    "folded": "<details><summary>{{ words }}</summary>{% for part in inside %}{{ part }}{% endfor %}</details>",
    "figure": (
        '<figure{% if anchor %} id="{{ anchor }}"{% endif %}>{% if picture.startswith(\'data:\') %}<img src="{{ picture }}"'
        ' alt="{{ caption }}">'
        "{% else %}{{ picture }}{% endif %}<figcaption>{{ caption }}</figcaption></figure>"
    ),
    "marks": (
        "<table>{% for mark, name, text in rows %}"
        '<tr><td class="{{ mark }}">{{ name }}</td><td>{{ text }}</td></tr>{% endfor %}</table>'
    ),
    "viewer": VIEWER,
    "page": (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="{{ policy }}{% if viewer %}{{ viewer.policy }}{% endif %}">'
        "<title>{{ title }}</title>"
        '<meta name="viewport" content="width=device-width"><style>{{ style }}{% if viewer %}{{ viewer.files.style }}{% endif %}'
        "</style></head><body>"
        "<h1>{{ title }}</h1><p class=quiet>{{ subtitle }}</p>"
        "{% for section in sections %}<section><h2>{{ section.title }}</h2>"
        "{% for part in section.parts %}{{ part }}{% endfor %}</section>{% endfor %}"
        "{{ panel }}<p class=quiet>written by medseg {{ version }}; a research tool, not a medical device</p></body></html>"
    ),
}


def markup(text: str) -> Markup:
    """HTML that we made ourselves."""
    return Markup(text)


def render(template: str, **values: object) -> Markup:
    """A part of a page, or a page.

    Raises:
        jinja2.UndefinedError: a value that the template needs is missing.

    Example:
        >>> str(render("text", words="<b>liver</b>", quiet=False))
        '<p>&lt;b&gt;liver&lt;/b&gt;</p>'
    """
    return markup(_environment().get_template(template).render(style=markup(STYLE), policy=POLICY, **values))


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.DictLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_shown
    )


def _shown(value: object) -> object:
    return value if isinstance(value, Markup) else printable(str(value), lines=True)
