// What every page does: the banner, the token of the session, dialogs, charts.
"use strict";

const meta = (name) => document.querySelector(`meta[name="${name}"]`)?.content ?? "";
const BEAT_MILLISECONDS = 10_000;
const GATEWAY_AWAY = "The gateway does not answer. What you typed is kept; this page tries again by itself.";

function showBanner(message, calm = false) {
  const banner = document.getElementById("banner");
  banner.textContent = message;
  banner.classList.toggle("calm", calm);
  banner.hidden = !message;
}

// Call a route below /console as JSON; throw an Error with a sentence for people.
async function call(path, body, options = {}) {
  let response;
  try {
    response = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": meta("csrf-token") },
      body: body === undefined ? undefined : JSON.stringify(body),
      ...options,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(GATEWAY_AWAY);
  }
  if (!response.ok) {
    const text = await response.text();
    let message = text;
    try { message = JSON.parse(text).error.message; } catch { message = `The gateway answered ${response.status}.`; }
    const error = new Error(message);
    error.status = response.status;
    throw error;
  }
  return response;
}

// Notice a gateway that is away, and that it is back.
let away = false;
function gatewayIs(now) {
  if (now === "away" && !away) showBanner(GATEWAY_AWAY);
  if (now === "here" && away) { showBanner(""); document.dispatchEvent(new Event("gateway-back")); }
  away = now === "away";
}
async function beat() {
  if (document.visibilityState === "visible" && meta("user")) {
    try {
      await fetch("/health/liveliness", { signal: AbortSignal.timeout(5000), cache: "no-store" });
      gatewayIs("here");
    } catch { gatewayIs("away"); }
  }
  setTimeout(beat, away ? 2000 : BEAT_MILLISECONDS);
}
setTimeout(beat, BEAT_MILLISECONDS);

document.addEventListener("htmx:configRequest", (event) => { event.detail.headers["X-CSRF-Token"] = meta("csrf-token"); });
document.addEventListener("htmx:sendError", () => gatewayIs("away"));
document.addEventListener("htmx:timeout", () => showBanner("The gateway has not answered for 30 seconds. Try again later."));
document.addEventListener("htmx:afterRequest", (event) => { if (event.detail.xhr.status) gatewayIs("here"); });
document.addEventListener("htmx:responseError", (event) => {
  let message = `The gateway answered ${event.detail.xhr.status}.`;
  try { message = JSON.parse(event.detail.xhr.responseText).error.message; } catch { /* a page, not an error of the API */ }
  showBanner(message);
});

document.querySelector(".bar nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

document.getElementById("sign-out")?.addEventListener("click", async () => {
  try {
    await call("/console/sign-out", {});
    location.href = "/console/sign-in";
  } catch (error) { showBanner(error.message); }
});

// Dialogs: [data-opens] opens one, [data-closes] closes its own.
document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-opens]");
  if (opener) document.getElementById(opener.dataset.opens).showModal();
  event.target.closest("[data-closes]")?.closest("dialog").close();
  if (event.target.matches("dialog")) event.target.close(); // the backdrop
});
const isTyping = (element) => element.matches("input:not([type=checkbox]):not([type=range]), textarea, select");
document.addEventListener("keydown", (event) => {
  const dialog = document.getElementById("keys");
  if (event.key === "?" && dialog && !isTyping(event.target) && !dialog.open) { event.preventDefault(); dialog.showModal(); }
});

// A part of a document opens in the panel, scrolled to the passage.
async function openPassage(address) {
  const panel = document.getElementById("panel");
  const body = panel.querySelector(".body");
  body.textContent = "Loading …";
  if (!panel.open) panel.showModal();
  try {
    const response = await call(address, undefined, { headers: { "HX-Request": "true" } });
    body.innerHTML = await response.text(); // our own template; every value in it is escaped
    (body.querySelector("mark") ?? body.querySelector(".passage"))?.scrollIntoView({ block: "center" });
  } catch (error) { body.textContent = error.message; }
}

// A guideline is plain text with paragraphs, lists ("- ", "1. "), **bold** and *emphasis*. It becomes nodes, never HTML.
function guidelineNodes(text) {
  const words = (line) => line.split(/(\*\*.+?\*\*|\*.+?\*)/).map((part) => {
    const [, bold, plain] = part.match(/^(\*\*?)(.+?)\1$/) ?? [];
    if (!bold) return part;
    const node = document.createElement(bold === "**" ? "strong" : "em");
    node.textContent = plain;
    return node;
  });
  return text.trim().split(/\n\s*\n/).map((block) => {
    const items = block.split(/\n(?=(?:-|\d+\.) )/);
    const kind = items[0].startsWith("- ") ? "ul" : /^\d+\. /.test(items[0]) ? "ol" : "p";
    const node = document.createElement(kind);
    if (kind === "p") node.append(...words(block.replace(/\s*\n\s*/g, " ")));
    else node.append(...items.map((item) => {
      const entry = document.createElement("li");
      entry.append(...words(item.replace(/^(?:-|\d+\.) /, "").replace(/\s*\n\s*/g, " ")));
      return entry;
    }));
    return node;
  });
}
for (const place of document.querySelectorAll("[data-guideline]")) place.replaceChildren(...guidelineNodes(place.textContent));

// A passage as nodes: tables of Markdown become tables, everything else stays text.
function passageNodes(text) {
  const nodes = [];
  for (const block of text.split(/(?:^|\n)((?:\|.*\|[ \t]*(?:\n|$)){2,})/)) {
    const lines = block.trim().split("\n");
    if (lines.length < 2 || !/^\|[ :|-]+\|$/.test(lines[1].trim())) { if (block) nodes.push(block); continue; }
    const cells = (line) => line.trim().slice(1, -1).split(/(?<!\\)\|/).map((cell) => cell.trim());
    const table = document.createElement("table");
    for (const [number, line] of lines.entries()) {
      if (number === 1) continue;
      const row = table.insertRow();
      for (const cell of cells(line)) {
        const node = document.createElement(number ? "td" : "th");
        if (!number) node.scope = "col";
        node.textContent = cell;
        row.append(node);
      }
    }
    const scrolling = document.createElement("div");
    scrolling.className = "table";
    scrolling.tabIndex = 0;
    scrolling.append(table);
    nodes.push(scrolling);
  }
  return nodes;
}

const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });

// Charts: data-chart has {"x": [...], "labels": [...] or null, "series": [{"label", "values"}], "unit"}.
function drawCharts(root) {
  for (const element of root.querySelectorAll("[data-chart]:not([data-drawn])")) {
    element.dataset.drawn = "yes";
    const chart = JSON.parse(element.dataset.chart);
    const style = getComputedStyle(document.documentElement);
    const colours = ["--accent", "--warn", "--bad"].map((name) => style.getPropertyValue(name).trim());
    const muted = style.getPropertyValue("--muted").trim(), line = style.getPropertyValue("--line").trim();
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "12px system-ui, sans-serif" };
    // Pixels between two labels: a letter takes at most 8 at this size. 50 is what uPlot takes for a clock.
    const space = chart.labels ? 16 + 8 * Math.max(...chart.labels.map((label) => label.length), 0) : 50;
    const options = {
      width: element.clientWidth - 16, height: 184, cursor: { drag: { x: false, y: false } },
      scales: { x: { time: !chart.labels }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, space, values: (_, ticks) => ticks.map((tick) => (chart.labels ? chart.labels[tick] ?? "" : clock(tick))) },
        { ...axis, size: 56 },
      ],
      series: [
        { label: "at", value: (_, at) => (at == null ? "–" : chart.labels ? chart.labels[at] ?? "" : clock(at)) },
        ...chart.series.map((series, number) => ({
          label: series.label, stroke: colours[number], width: 2, points: { show: chart.x.length < 40 },
          value: (_, value) => (value == null ? "–" : `${value} ${chart.unit ?? ""}`),
        })),
      ],
    };
    const plot = new uPlot(options, [chart.x, ...chart.series.map((series) => series.values)], element);
    addEventListener("resize", () => plot.setSize({ width: element.clientWidth - 16, height: 184 }));
  }
}
document.addEventListener("DOMContentLoaded", () => { if (window.uPlot) drawCharts(document); });
document.addEventListener("htmx:afterSwap", (event) => { if (window.uPlot) drawCharts(event.target); });
