"""One page that shows pairs of embeddings in a plane: no network, all of it inside the file. Needs plotly.

Text of files is data: it stands in JSON without "<" and reaches the page as textContent only, and the page's
own policy forbids it to load anything. STYLE and SCRIPT, the view itself, serve the report of a run as well.
"""

import html
import json
from pathlib import Path

import numpy as np

from data_prep import embedding_figures, runs

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; "
    "img-src data: blob:"
)
BEGIN, END = '<script type="application/json" id="data">', "</script>"

STYLE = """
.pairs button { margin: 2px; padding: 4px 9px; border: 1px solid #666; cursor: pointer; }
.pairs button { background: #fff; color: #222; }
.pairs button[aria-pressed=true] { background: #0072B2; color: #fff; }
.pairs .box { display: flex; flex-wrap: wrap; gap: 14px; }
.pairs .plane { flex: 1 1 420px; max-width: 860px; min-width: 0; height: 620px; max-height: 85vh; }
.pairs .side { width: 250px; min-height: 330px; overflow-wrap: anywhere; }
.pairs .side img { width: 116px; image-rendering: pixelated; border: 2px solid; }
.pairs .key span { display: block; }
.pairs .key i { display: inline-block; width: 10px; height: 10px; margin-right: 6px; }
.pairs label { display: block; margin: 4px 0; }
.pairs input[type=range] { width: 100%; max-width: 860px; }
"""

SCRIPT = """
function showPairs(box, data) {
const pairs = data.pairs, count = pairs.id.length;
const shapes = {RGB: "circle", SAR: "square"}, modalities = ["RGB", "SAR"];
let plane = Object.keys(data.planes)[0], view = "modality", held = null;

function element(name, kind, parent) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  parent.appendChild(made);
  return made;
}
box.classList.add("pairs");
const choice = element("p", "", box), planes = element("span", "", choice);
choice.append(" \u00a0 colour: ");
const views = element("span", "", choice);
const step = element("label", "", box);
step.textContent = "Pair by pair, with the arrow keys too:";
const slider = element("input", "", step);
Object.assign(slider, {type: "range", min: 0, max: Math.max(0, count - 1), value: 0});
const both = element("div", "box", box);
const plot = element("div", "plane", both), side = element("div", "side", both);
const chips = element("div", "chips", side), about = element("div", "about", side);
about.setAttribute("aria-live", "polite");
about.textContent = data.hint || "Hover shows a pair, a click marks it.";
element("hr", "", side);
const legend = element("div", "key", side);

function buttons(place, names, chosen, choose) {
  place.replaceChildren(...names.map(name => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", name === chosen);
    button.onclick = () => {
      choose(name);
      draw();
      [...place.children].find(other => other.textContent === name).focus();
    };
    return button;
  }));
}
function line(place, text) {
  element("span", "", place).textContent = text;
  place.lastChild.style.display = "block";
}
function show(k) {
  chips.replaceChildren();
  about.replaceChildren();
  slider.value = k;
  const pictures = Object.hasOwn(data.chips, pairs.id[k]) ? data.chips[pairs.id[k]] : null;
  (pictures || []).forEach((source, m) => {
    const image = element("img", "", chips);
    image.src = source;
    image.alt = image.title = modalities[m];
    image.style.borderColor = data.colours[modalities[m]];
  });
  if (!pictures) line(about, data.without);
  const snow = pairs.snow[k];
  line(about, "id: " + pairs.id[k]);
  line(about, "site: " + pairs.site[k]);
  line(about, "date: " + (pairs.date[k] || "unknown"));
  line(about, "snow: " + (snow === null ? "unknown" : (100 * snow).toFixed(0) + " %"));
}
function traces() {
  const [x, y] = data.planes[plane], lines = {x: [], y: []};
  for (let k = 0; k < count; k++) {
    lines.x.push(x[k], x[k + count], null);
    lines.y.push(y[k], y[k + count], null);
  }
  const all = [{...lines, mode: "lines", type: "scatter", hoverinfo: "skip",
                line: {color: count < 400 ? "rgba(80,80,80,0.35)" : "rgba(80,80,80,0.12)", width: 0.7}}];
  modalities.forEach((name, m) => all.push({
    x: x.slice(m * count, (m + 1) * count), y: y.slice(m * count, (m + 1) * count),
    mode: "markers", type: "scatter", hoverinfo: "none",
    marker: {symbol: shapes[name], size: count < 400 ? 9 : 6, line: {width: 0.5, color: "#fff"},
             color: view === "modality" ? data.colours[name] : data.views[view].colours}}));
  const pair = held === null ? [[], []] : [[x[held], x[held + count]], [y[held], y[held + count]]];
  all.push({x: pair[0], y: pair[1], mode: "lines+markers", type: "scatter", hoverinfo: "skip",
            line: {color: "#000", width: 2.5},
            marker: {symbol: ["circle-open", "square-open"], size: 15, color: "#000"}});
  return all;
}
function key() {
  legend.replaceChildren();
  line(legend, "● RGB, ■ SAR; lines join pairs");
  const names = view === "modality" ? data.colours : data.views[view].key;
  for (const [name, colour] of Object.entries(names)) {
    const part = element("span", "", legend);
    element("i", "", part).style.background = colour;
    part.append(name);
  }
  if (view !== "modality" && data.views[view].note) line(legend, data.views[view].note);
}
function draw() {
  buttons(planes, Object.keys(data.planes), plane, name => { plane = name; });
  buttons(views, ["modality", ...Object.keys(data.views)], view, name => { view = name; });
  key();
  const bare = {showgrid: false, zeroline: false, showticklabels: false};
  return Plotly.react(plot, traces(), {showlegend: false, hovermode: "closest",
    xaxis: {...bare}, yaxis: {...bare}, margin: {l: 10, r: 10, t: 10, b: 10}, uirevision: plane},
    {displaylogo: false, responsive: true});
}
function hold(k) { held = k; show(k); return draw(); }
slider.oninput = () => hold(Number(slider.value));
const drawn = draw();
plot.on("plotly_hover", found => show(found.points[0].pointNumber));
plot.on("plotly_click", found => hold(found.points[0].pointNumber));
return drawn;
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<style>
body { font: 14px sans-serif; margin: 12px; color: #222; }
h1 { font-size: 17px; margin: 0 0 6px; }
p { margin: 4px 0; max-width: 1100px; }
small { color: #555; }
$style</style></head><body>
<h1>$title</h1><p>$answer</p>
<div id="pairs"></div>
<p><small>$note</small></p>
$begin$data</script>
<script>$plotly</script>
<script>$script
showPairs(document.getElementById("pairs"), JSON.parse(document.getElementById("data").textContent));
</script></body></html>
"""


def in_script(value) -> str:
    """`value` as JSON that may stand inside a script element, whatever its texts hold."""
    text = json.dumps(runs.plain(value), ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def read(path: Path) -> dict:
    """What a page that `write` made shows, as it stands there; ValueError where there is none."""
    page = Path(path).read_text(encoding="utf-8")
    if BEGIN not in page:
        raise ValueError("it holds no pairs")
    page = page[page.index(BEGIN) + len(BEGIN) :]
    return json.loads(page[: page.index(END)])


def write(path: Path, rows: list[dict], planes: dict[str, np.ndarray], chips: dict, words: dict) -> int:
    """The page of the pairs `rows`; returns its bytes.

    planes: name -> (2 n, 2), RGB rows then SAR. chips: {id: [RGB, SAR] as data URIs}, of some pairs or none.
    words: title, answer, note, hint, and without, what is said of a pair that has no chips.
    """
    from plotly.offline import get_plotlyjs

    views = {}
    for view in embedding_figures.VIEWS[1:]:
        shades, key, note = embedding_figures.colours(rows, view)
        if view == "snow fraction":
            ramp = embedding_figures.colours([{"snow_fraction": s} for s in (0, 0.25, 0.5, 0.75, 1)], view)[0]
            key = dict(zip(("0 %", "25 %", "50 %", "75 %", "100 %"), ramp, strict=True)) | key
        views[view] = {"colours": shades, "key": key, "note": note.replace("\n", " ")}
    columns = {"id": "id", "site": "site", "date": "date", "snow": "snow_fraction"}
    data = {
        "pairs": {name: [row[column] for row in rows] for name, column in columns.items()},
        "planes": {name: np.round(plane.T.astype(float), 5).tolist() for name, plane in planes.items()},
        "views": views, "chips": chips, "without": words["without"],
        "colours": {name: embedding_figures.COLOURS[name] for name in ("RGB", "SAR")}, "hint": words["hint"],
    }  # fmt: skip
    parts = {name: html.escape(words[name]) for name in ("title", "answer", "note")}
    parts |= {"policy": html.escape(POLICY), "data": in_script(data), "plotly": get_plotlyjs()}
    parts |= {"style": STYLE, "script": SCRIPT, "begin": BEGIN}
    pieces = PAGE.split("$")
    text = [pieces[0]]
    for piece in pieces[1:]:  # one pass: a $ in what is put in stays one
        name = next(name for name in parts if piece.startswith(name))
        text += [parts[name], piece[len(name) :]]
    page = "".join(text)
    runs.write_text(path, page)
    return len(page.encode())
