const colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000"];
const symbols = ["circle", "square", "diamond", "cross", "x"];
const dashes = ["solid", "dot", "dash", "dashdot", "longdash"];
let plotly = null;

function make(name, kind, parent, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  if (parent) parent.appendChild(made);
  return made;
}

/* Plotly lies in the page, packed; it is unpacked when the first plot comes near. */
function loadPlotly() {
  plotly = plotly || (async () => {
    const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), c => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.appendChild(script);
  })();
  return plotly;
}

function range(parent, words, count, change) {
  const label = make("label", "", parent, words + " ");
  const said = make("output", "", label);
  const input = make("input", "", label);
  Object.assign(input, {type: "range", min: 0, max: Math.max(0, count - 1), step: 1, value: 0});
  input.addEventListener("input", () => change(Number(input.value)));
  return {input, said};
}

const views = {
  chips(box, data) {
    const {layers, items} = data;
    let chip = 0, layer = 0;
    const both = make("div", "box", box), left = make("div", "left", both), side = make("div", "side", both);
    const large = make("img", "large", left);
    const which = range(side, "Chip:", items.length, value => { chip = value; draw(); });
    const what = range(side, "Picture:", layers.length, value => { layer = value; draw(); });
    const about = make("p", "about quiet", side);
    about.setAttribute("aria-live", "polite");
    const small = make("div", "small", side);
    const buttons = layers.map((name, k) => {
      const button = make("button", "", small);
      button.type = "button";
      button.image = make("img", "", button);
      button.image.alt = "";
      make("span", "", button, name);
      button.addEventListener("click", () => { layer = k; draw(); });
      return button;
    });
    function show(image, source, words) {
      if (source) image.src = source; else image.removeAttribute("src");
      image.alt = source ? words : "no " + words;
    }
    function draw() {
      const item = items[chip];
      show(large, item.layers[layers[layer]], layers[layer] + " of " + item.id);
      which.input.value = chip;
      what.input.value = layer;
      which.said.textContent = (chip + 1) + " of " + items.length;
      what.said.textContent = layers[layer];
      which.input.setAttribute("aria-valuetext", which.said.textContent);
      what.input.setAttribute("aria-valuetext", layers[layer]);
      about.textContent = item.about;
      buttons.forEach((button, k) => {
        show(button.image, item.layers[layers[k]], layers[k]);
        button.setAttribute("aria-pressed", k === layer);
      });
    }
    draw();
  },

  async pairs(box, data) {
    await loadPlotly();
    await showPairs(box, data);
  },

  async series(box, data) {
    await loadPlotly();
    const label = make("label", "", box, "Site: "), select = make("select", "", label);
    const plot = make("div", "plane", box);
    for (const name of Object.keys(data.sites)) make("option", "", select, name).value = name;
    const columns = pairs => [pairs.map(pair => pair[0]), pairs.map(pair => pair[1])];
    function draw() {
      const site = data.sites[select.value], all = [];
      Object.entries(site.snow).forEach(([name, pairs], k) => {
        const [x, y] = columns(pairs);
        all.push({x, y, name: "snow: " + plain(name), type: "scatter", mode: "lines+markers", yaxis: "y2",
          line: {color: colours[k], width: 1, dash: dashes[k]}, marker: {size: 5, symbol: symbols[k]}});
      });
      const [x, y] = columns(site.weather);
      if (data.weather) all.push({x, y, name: plain(data.weather), type: "scatter", mode: "lines", line: {color: "#777", width: 1.5}});
      const narrow = plot.clientWidth < 560;
      const times = all.flatMap(one => one.x).map(day => Date.parse(day)).filter(Number.isFinite);
      const days = times.length ? (Math.max(...times) - Math.min(...times)) / 864e5 : 0;
      const short = days < 14 ? {dtick: 864e5 * Math.max(1, Math.ceil(days / 6)), tickformat: "%Y-%m-%d"} : {};
      return Plotly.react(plot, all, {
        margin: {l: 58, r: 12, t: 8, b: 40}, legend: {orientation: "h", y: 1.02, yanchor: "bottom"},
        hovermode: "x unified", font: {size: narrow ? 10 : 12}, showlegend: true,
        xaxis: {title: {text: "date"}, type: "date", anchor: data.weather ? "y" : "y2", ...short},
        yaxis: {visible: Boolean(data.weather), domain: [0, 0.36], title: {text: plain(data.weather + (data.unit ? " (" + data.unit + ")" : "")), font: {size: 11}}},
        yaxis2: {domain: [data.weather ? 0.44 : 0, 1], title: {text: plain(data.response), font: {size: 11}}, rangemode: "tozero"},
      }, {displaylogo: false, responsive: true});
    }
    select.addEventListener("change", draw);
    await draw();
  },
};

/* Plotly reads a little markup in its texts; names from files are not meant as such. */
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

async function open(view) {
  if (view.opened) return;
  view.opened = true;
  try {
    const data = JSON.parse(view.querySelector("script").textContent);
    view.classList.add("live");
    await views[view.dataset.view](view.querySelector(".controls"), data);
    view.dataset.ready = "yes";
  } catch (error) {
    view.classList.remove("live");
    view.querySelector(".failed").textContent = "This browser cannot draw the interactive figure; the static one stands in its place.";
  }
}

/* Tables and pictures that go on beyond their box say so, below it and by a shadow at its edge. */
function sayMore(box) {
  const below = box.scrollHeight > box.clientHeight + 2, right = box.scrollWidth > box.clientWidth + 2;
  const words = box.nextElementSibling;
  if (words && words.classList.contains("more")) {
    const rows = below ? words.dataset.rows + " rows; scroll in the table for those below. " : "";
    words.textContent = rows + (right ? "It goes on to the right: scroll sideways." : "");
  }
  const shade = () => {
    box.classList.toggle("below", box.scrollTop + box.clientHeight < box.scrollHeight - 2);
    box.classList.toggle("right", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  };
  box.onscroll = shade;
  shade();
}
const sizes = new ResizeObserver(found => found.forEach(one => sayMore(one.target)));
document.querySelectorAll(".scroll").forEach(box => sizes.observe(box));

const near = new IntersectionObserver(found => {
  for (const one of found) if (one.isIntersecting) open(one.target);
}, {rootMargin: "500px"});
document.querySelectorAll(".view").forEach(view => near.observe(view));
