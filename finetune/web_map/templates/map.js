// The web map: layers of one map, a slider between two of them, and the series of a pixel.
"use strict";

const ORDER = ["image", "label", "prediction", "probability", "errors", "fields"]; // from below to above
const SHOWN_FIRST = { image: 1, prediction: 0.75, fields: 1 }; // opacity of the layers that are on at first
const SOURCE_COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
const MISSING_TILE = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

const element = (id) => document.getElementById(id);
const map = L.map("map", { maxZoom: 22, minZoom: 1, maxBoundsViscosity: 0.5 });
map.attributionControl.setPrefix(false);
map.attributionControl.addAttribution("Leaflet");
L.control.scale({ imperial: false }).addTo(map);
for (const [place, key] of ORDER.entries()) map.createPane(key).style.zIndex = 250 + 10 * place;

let current = null; // { number, description, layers: { key: { on, opacity, choice, leaflet } } }
let share = 0.5; // of the map's width that is left of the slider
let mark = null;
let asked = 0; // questions about pixels so far: late answers to earlier ones are not shown
let choices = 0; // of a map so far: the same

function make(tag, text, attributes) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) made.setAttribute(name, value);
  return made;
}

function say(text, failed) {
  element("status").textContent = text;
  element("status").classList.toggle("failed", Boolean(failed));
}

async function ask(path) {
  const answer = await fetch(path);
  const values = await answer.json();
  if (!answer.ok) throw new Error(values.error);
  return values;
}

// --- Layers

async function showMap(number) {
  const choice = ++choices;
  say("reading…");
  for (const state of Object.values(current ? current.layers : {})) if (state.leaflet) state.leaflet.remove();
  if (mark) mark.remove();
  element("pixel").replaceChildren(make("p", "Click on the map to see the series of a pixel.", { class: "note" }));
  const description = await ask(`maps/${number}`);
  if (choice !== choices) return;
  const layers = {};
  for (const layer of description.layers) {
    const first = SHOWN_FIRST[layer.key];
    layers[layer.key] = { on: first !== undefined, opacity: first || 0.8, choice: firstChoice(layer.key, description), leaflet: null };
  }
  current = { number, description, layers };
  element("simulated").hidden = !description.simulated;
  const season = description.year === null ? "" : `, season ending ${description.year}`;
  element("about").textContent = `${description.name}${description.simulated ? " (simulated)" : ""}${season}`;
  element("notes").replaceChildren(...description.notes.map((note) => make("p", note, { class: "note" })));
  drawControls();
  map.fitBounds(description.bounds);
  map.setMaxBounds(L.latLngBounds(description.bounds).pad(1.5));
  await Promise.all(Object.keys(layers).map(refresh));
  say("");
}

function firstChoice(key, description) {
  if (key === "image") {
    // Of the images that are about as clear as the clearest, the one nearest to the middle of the season.
    const best = Math.max(...description.images.map((one) => one.clear));
    const middle = (description.images.length - 1) / 2;
    const near = description.images.map((one, at) => ({ ...one, away: Math.abs(at - middle) })).filter((one) => one.clear >= best - 0.02);
    return near.reduce((nearest, one) => (one.away < nearest.away ? one : nearest)).date;
  }
  return key === "probability" ? String(Math.min(1, description.classes.length - 1)) : "";
}

function swiped() {
  return element("swipe").checked;
}

function sides() {
  return [element("left").value, element("right").value];
}

function visible(key) {
  return swiped() && key !== "fields" ? sides().includes(key) : current.layers[key].on;
}

// Adds, removes or replaces the Leaflet layer of one layer, as the controls say.
async function refresh(key) {
  const { number, layers, description } = current;
  const state = layers[key];
  const wanted = visible(key) ? `${number} ${key} ${state.choice}` : "";
  if (state.wanted !== wanted) {
    state.wanted = wanted;
    if (state.leaflet) state.leaflet.remove();
    state.leaflet = null;
    if (wanted && key === "fields") {
      state.leaflet = L.geoJSON(null, { pane: key, style: { color: "#111111", weight: 1.5, fill: false }, interactive: false });
      state.leaflet.addTo(map);
      await loadFields();
    } else if (wanted) {
      try {
        say(`preparing ${key}…`);
        await ask(`maps/${number}/prepare/${key}?choice=${encodeURIComponent(state.choice)}`);
      } catch (error) {
        say(error.message, true);
        return;
      }
      if (state.wanted !== wanted || current.number !== number) return;
      const url = `maps/${number}/tiles/${key}/{z}/{x}/{y}.png?choice=${encodeURIComponent(state.choice)}`;
      const options = { pane: key, bounds: description.bounds, maxZoom: 22, errorTileUrl: MISSING_TILE };
      state.leaflet = L.tileLayer(url, options).addTo(map);
      say("");
    }
  }
  map.getPane(key).style.opacity = swiped() && key !== "fields" ? 1 : state.opacity;
  clip();
  drawLegend();
}

function refreshAll() {
  return Promise.all(Object.keys(current.layers).map(refresh));
}

async function loadFields() {
  const state = current && current.layers.fields;
  if (!state || !state.leaflet) return;
  const view = map.getBounds();
  const box = `west=${view.getWest()}&south=${view.getSouth()}&east=${view.getEast()}&north=${view.getNorth()}`;
  try {
    const asked = (state.asked = (state.asked || 0) + 1);
    const shapes = await ask(`maps/${current.number}/fields?${box}`);
    if (!state.leaflet || asked !== state.asked) return;
    state.leaflet.clearLayers().addData(shapes);
    if (shapes.left_out) say(`${shapes.left_out} small fields are left out: zoom in`);
  } catch (error) {
    say(error.message, true);
  }
}

// --- The slider

// Shows the left layer left of the slider, and the right one right of it.
function clip() {
  const size = map.getSize();
  const corner = map.containerPointToLayerPoint([0, 0]);
  const edge = corner.x + share * size.x;
  const [top, bottom] = [corner.y, corner.y + size.y];
  const box = (west, east) => `polygon(${west}px ${top}px, ${east}px ${top}px, ${east}px ${bottom}px, ${west}px ${bottom}px)`;
  const [left, right] = sides();
  for (const key of ORDER) {
    let path = "";
    if (swiped() && key === left && left !== right) path = box(corner.x, edge);
    if (swiped() && key === right && left !== right) path = box(edge, corner.x + size.x);
    map.getPane(key).style.clipPath = path;
  }
  element("divider").hidden = !swiped();
  element("divider").style.left = `${100 * share}%`;
  element("divider").setAttribute("aria-valuenow", String(Math.round(100 * share)));
}

function moveDivider(to) {
  share = Math.min(1, Math.max(0, to));
  clip();
}

const divider = element("divider");
L.DomEvent.disableClickPropagation(divider);
divider.addEventListener("pointerdown", (event) => {
  event.stopPropagation();
  event.preventDefault();
  divider.focus();
  divider.setPointerCapture(event.pointerId);
});
divider.addEventListener("pointermove", (event) => {
  if (!divider.hasPointerCapture(event.pointerId)) return;
  const box = element("map").getBoundingClientRect();
  moveDivider((event.clientX - box.left) / box.width);
});
divider.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -0.02, ArrowRight: 0.02 }[event.key];
  if (step === undefined) return;
  event.preventDefault();
  event.stopPropagation();
  moveDivider(share + step);
});
map.on("move zoom resize", clip);
map.on("moveend", loadFields);

// --- Controls and legend

function drawControls() {
  const { description, layers } = current;
  const rows = description.layers.map((layer) => {
    const state = layers[layer.key];
    const row = make("div", null, { class: "layer" });
    const label = make("label");
    const on = make("input", null, { type: "checkbox", id: `on-${layer.key}` });
    on.checked = state.on;
    on.addEventListener("change", () => { state.on = on.checked; refresh(layer.key); });
    label.append(on, ` ${layer.title}`);
    const opacity = make("input", null, { type: "range", min: "0", max: "100", value: String(100 * state.opacity), "aria-label": `opacity of ${layer.title}` });
    opacity.addEventListener("input", () => { state.opacity = opacity.value / 100; refresh(layer.key); });
    row.append(label, opacity);
    const choices = choicesOf(layer.key, description);
    if (choices.length) {
      const select = make("select", null, { id: `choice-${layer.key}`, "aria-label": `which ${layer.title}` });
      select.append(...choices.map(([value, text]) => make("option", text, { value })));
      select.value = state.choice;
      select.addEventListener("change", () => { state.choice = select.value; refresh(layer.key); });
      row.append(select);
    }
    return row;
  });
  element("layers").replaceChildren(...rows.reverse()); // the uppermost layer first
  const rasters = description.layers.filter((layer) => layer.key !== "fields");
  const keys = rasters.map((layer) => layer.key);
  const before = [keys.includes("label") ? "label" : keys[0], "prediction"];
  for (const [place, id] of ["left", "right"].entries()) {
    const kept = element(id).value;
    element(id).replaceChildren(...rasters.map((layer) => make("option", layer.title, { value: layer.key })));
    element(id).value = keys.includes(kept) ? kept : before[place];
  }
  element("swipe").disabled = rasters.length < 2;
  if (rasters.length < 2) element("swipe").checked = false;
  element("sides").hidden = !swiped();
}

function choicesOf(key, description) {
  if (key === "image") {
    return description.images.map((image) => [image.date, `${image.date}, ${Math.round(100 * image.clear)} % clear`]);
  }
  return key === "probability" ? description.classes.map((entry, index) => [String(index), entry.name]) : [];
}

function drawLegend() {
  const shown = current.description.layers.filter((layer) => visible(layer.key));
  const parts = new Map(); // equal legends once, under the names of all their layers
  for (const layer of shown) {
    const content = JSON.stringify([layer.legend, layer.ramp]);
    if (!layer.legend.length && !layer.ramp) continue;
    parts.set(content, { layer, titles: [...(parts.has(content) ? parts.get(content).titles : []), layer.title] });
  }
  element("legend").replaceChildren(...[...parts.values()].map(({ layer, titles }) => {
    const part = make("div", null, { class: "legend" });
    part.append(make("b", titles.join(", ")));
    for (const entry of layer.legend) {
      const item = make("span", entry.name);
      const square = make("i");
      square.style.background = entry.color;
      item.prepend(square);
      part.append(item);
    }
    if (layer.ramp) {
      const ramp = make("div", null, { class: "ramp" });
      ramp.style.background = `linear-gradient(to right, ${layer.ramp.join(", ")})`;
      const ends = make("div", null, { class: "ends" });
      ends.append(make("span", "0"), make("span", "1"));
      part.append(ramp, ends);
    }
    return part;
  }));
}

element("maps").addEventListener("change", () => start(Number(element("maps").value)));
element("swipe").addEventListener("change", () => { element("sides").hidden = !swiped(); refreshAll(); });
element("left").addEventListener("change", refreshAll);
element("right").addEventListener("change", refreshAll);

// --- A pixel

map.on("click", async (event) => {
  const question = ++asked;
  const { lat, lng } = event.latlng;
  if (mark) mark.remove();
  mark = L.circleMarker(event.latlng, { radius: 7, color: "#ffffff", weight: 3, fill: false, interactive: false, pane: "markerPane" }).addTo(map);
  say("reading the pixel…");
  try {
    const pixel = await ask(`maps/${current.number}/pixel?lon=${lng}&lat=${lat}`);
    if (question !== asked) return;
    drawPixel(pixel, lat, lng);
    say("");
  } catch (error) {
    if (question === asked) say(error.message, error.message !== "outside of the map");
  }
});

function readable(name) {
  return name === null ? "no data" : name.replaceAll("_", " ");
}

function drawPixel(pixel, lat, lng) {
  const parts = [make("h2", `Pixel in row ${pixel.row}, column ${pixel.col}`)];
  parts.push(make("p", `${Math.abs(lat).toFixed(5)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lng).toFixed(5)}° ${lng < 0 ? "W" : "E"}`, { class: "note" }));
  parts.push(make("p", `prediction: ${readable(pixel.prediction)}`, { id: "predicted" }));
  if (pixel.about_label) parts.push(make("p", `no label: ${pixel.about_label}`, { class: "note" }));
  else if (pixel.has_label) parts.push(make("p", `label: ${pixel.label === null ? "not labelled" : readable(pixel.label)}`, { id: "labelled" }));
  if (pixel.probabilities) {
    const bars = make("div", null, { class: "bars", id: "probabilities" });
    current.description.classes.forEach((entry, index) => {
      const bar = make("div");
      const filled = make("i");
      filled.style.width = `${100 * pixel.probabilities[index]}%`;
      filled.style.background = entry.color;
      bar.append(filled);
      bars.append(make("span", entry.name), bar, make("span", pixel.probabilities[index].toFixed(3)));
    });
    parts.push(bars, make("p", `probabilities from ${pixel.probabilities_from}`, { class: "note" }));
  } else {
    parts.push(make("p", `probabilities: ${pixel.probabilities_from}`, { class: "note" }));
  }
  if (pixel.series.length) {
    const choices = seriesChoices(pixel.series);
    const select = make("select", null, { id: "band", "aria-label": "what the series shows" });
    select.append(...choices.map((choice, index) => make("option", choice.title, { value: String(index) })));
    const chart = make("div", null, { id: "chart" });
    const draw = () => chart.replaceChildren(...drawSeries(choices[Number(select.value)]));
    select.addEventListener("change", draw);
    parts.push(make("h2", "Series"), select, chart);
    draw();
  }
  if (pixel.about_series) parts.push(make("p", `series: ${pixel.about_series}`, { class: "note" }));
  element("pixel").replaceChildren(...parts);
}

// NDVI of all sources that have it, then each band of each source: { title, lines: [{ source, title, points }] }.
function seriesChoices(series) {
  const points = (one, value) => one.dates
    .map((date, time) => ({ date, value: value(time), clear: one.clear[time] }))
    .filter((point) => point.value !== null);
  const choices = [];
  const withNdvi = series.filter((one) => one.ndvi !== null);
  const lineOf = (one, value) => ({ source: one.source, title: one.title, color: SOURCE_COLORS[series.indexOf(one) % SOURCE_COLORS.length], points: points(one, value) });
  if (withNdvi.length) choices.push({ title: "NDVI", lines: withNdvi.map((one) => lineOf(one, (time) => one.ndvi[time])) });
  for (const one of series) {
    one.bands.forEach((band, index) => {
      const value = (time) => (one.reflectance[time] === null ? null : one.reflectance[time][index]);
      choices.push({ title: `reflectance of ${band}, ${one.title}`, lines: [lineOf(one, value)] });
    });
  }
  return choices;
}

function drawSeries({ title, lines }) {
  const everything = lines.flatMap((line) => line.points);
  if (!everything.length) return [make("p", "no observation of this pixel", { class: "note" })];
  const [width, height, left, bottom, top] = [340, 190, 34, 24, 8];
  const day = (point) => Date.parse(point.date) / 86400000;
  let [first, last] = [Math.min(...everything.map(day)), Math.max(...everything.map(day))];
  if (first === last) [first, last] = [first - 1, last + 1];
  let [low, high] = [Math.min(0, ...everything.map((p) => p.value)), Math.max(...everything.map((p) => p.value))];
  const step = niceStep(high - low);
  high = Math.ceil(high / step) * step || step;
  low = Math.floor(low / step) * step;
  const x = (point) => left + ((day(point) - first) / (last - first)) * (width - left - 10);
  const y = (value) => top + ((high - value) / (high - low)) * (height - top - bottom);
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} by date` });
  for (let value = low; value <= high + step / 2; value += step) {
    svg.append(shape("line", { class: "axis", x1: left, x2: width, y1: y(value), y2: y(value) }));
    svg.append(shape("text", { x: left - 4, y: y(value) + 3, "text-anchor": "end" }, String(Number(value.toFixed(4)))));
  }
  for (const month of months(first, last)) {
    const at = left + ((month.day - first) / (last - first)) * (width - left - 10);
    svg.append(shape("line", { class: "axis", x1: at, x2: at, y1: height - bottom, y2: height - bottom + 4 }));
    svg.append(shape("text", { x: at, y: height - 8, "text-anchor": "middle" }, month.name));
  }
  for (const line of lines) {
    const clear = line.points.filter((point) => point.clear);
    const path = clear.map((point) => `${x(point).toFixed(1)},${y(point.value).toFixed(1)}`).join(" ");
    svg.append(shape("polyline", { points: path, fill: "none", stroke: line.color, "stroke-width": 1.5 }));
    for (const point of line.points) {
      const dot = shape("circle", {
        cx: x(point), cy: y(point.value), r: 3.2, stroke: line.color, fill: point.clear ? line.color : "none",
        "data-source": line.source, "data-date": point.date, "data-value": point.value, "data-clear": point.clear,
      });
      dot.append(shape("title", {}, `${point.date}: ${point.value}${point.clear ? "" : ", not clear"}`));
      svg.append(dot);
    }
  }
  const legend = make("div", null, { class: "legend" });
  for (const line of lines) {
    const item = make("span", `${line.title}: ${line.points.length} dates, ${line.points.filter((point) => point.clear).length} clear`);
    const square = make("i");
    square.style.background = line.color;
    item.prepend(square);
    legend.append(item);
  }
  legend.append(make("span", "filled: clear; hollow: not clear"));
  const table = make("table");
  const header = make("tr");
  header.append(make("th", "date"), make("th", "source"), make("th", title.split(" of ").pop().split(",")[0]), make("th", "clear"));
  table.append(header);
  const rows = lines.flatMap((line) => line.points.map((point) => ({ ...point, source: line.source })));
  for (const point of rows.sort((one, other) => (one.date < other.date ? -1 : 1))) {
    const row = make("tr");
    row.append(make("td", point.date), make("td", point.source), make("td", point.value.toFixed(3)), make("td", point.clear ? "yes" : "no"));
    table.append(row);
  }
  const numbers = make("details");
  numbers.append(make("summary", "as numbers"), table);
  return [svg, legend, numbers];
}

function shape(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function niceStep(span) {
  const rough = (span || 1) / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((step) => step >= rough);
}

// The first days of months between two days since 1970, at most eight of them.
function months(first, last) {
  const found = [];
  const at = new Date(first * 86400000);
  at.setUTCDate(1);
  for (at.setUTCMonth(at.getUTCMonth() + 1); at / 86400000 <= last; at.setUTCMonth(at.getUTCMonth() + 1)) {
    found.push({ day: at / 86400000, name: at.toLocaleString("en", { month: "short", timeZone: "UTC" }) });
  }
  const every = Math.ceil(found.length / 8);
  return found.filter((_, index) => index % every === 0);
}

function start(number) {
  showMap(number).catch((error) => say(error.message, true));
}

start(0);
