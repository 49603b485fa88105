// What pages do beyond links: step by keyboard, follow a live session, draw curves.
// Every page can be read without this file. Nothing here makes HTML out of text.
"use strict";

const body = document.body;

// ── steps ────────────────────────────────────────────────────────────────────────────────────

const panel = document.getElementById("panel");
const timeline = document.getElementById("timeline");
const session = body.dataset.session;
const known = new Map(); // address -> promise of a part's text: a step back needs no request
let wanted = "";

function current() {
  const step = panel.querySelector("[data-step]");
  return step ? Number(step.dataset.step) : 0;
}

function last() {
  const list = timeline.querySelector("[data-last]");
  return Number(list ? list.dataset.last : body.dataset.last);
}

// The way of showing a file stays while one steps.
function view() {
  const asked = new URLSearchParams(location.search);
  const kept = new URLSearchParams();
  for (const name of ["view", "against"]) {
    if (asked.get(name)) kept.set(name, asked.get(name));
  }
  return kept;
}

function address(step, params) {
  const query = params.toString();
  return `${session}/steps/${step}${query ? "?" + query : ""}`;
}

function part(url) {
  if (!known.has(url)) {
    if (known.size > 40) known.delete(known.keys().next().value);
    known.set(url, load(url));
  }
  return known.get(url);
}

async function load(url) {
  const response = await fetch(url + (url.includes("?") ? "&" : "?") + "part=step");
  if (!response.ok) {
    known.delete(url);
    throw new Error(String(response.status));
  }
  return response.text();
}

// The server has escaped all text; no script in a parsed document runs.
function nodes(html) {
  return new DOMParser().parseFromString(html, "text/html").body.childNodes;
}

// What stays the same between two steps stays in the page: most of a file does.
function put(fresh) {
  const next = [...fresh].find((node) => node instanceof Element);
  let here = panel.querySelector(".scroll.tall .lines");
  let there = next.querySelector(".scroll.tall .lines");
  if (!here || !there) {
    panel.replaceChildren(...fresh);
    return;
  }
  const parts = [...there.children];
  parts.forEach((part, at) => {
    const had = here.children[at];
    if (!had) here.append(part);
    else if (!had.isEqualNode(part)) had.replaceWith(part);
  });
  while (here.children.length > parts.length) here.lastElementChild.remove();
  for (; here.parentElement !== panel; here = here.parentElement, there = there.parentElement) {
    const parent = here.parentElement;
    const nodes = [...there.parentElement.childNodes];
    const at = nodes.indexOf(there);
    for (const node of [...parent.childNodes]) if (node !== here) node.remove();
    here.before(...nodes.slice(0, at));
    here.after(...nodes.slice(at + 1));
    for (const { name, value } of there.attributes) here.setAttribute(name, value);
  }
  for (const { name, value } of next.attributes) here.setAttribute(name, value);
}

async function show(url, remember) {
  wanted = url;
  let text;
  try {
    text = await part(url);
  } catch {
    location.href = url;
    return;
  }
  if (wanted !== url) return; // another key was pressed meanwhile
  put(nodes(text));
  if (remember) history.pushState({ url }, "", url);
  const article = panel.querySelector("article");
  document.title = `${article.dataset.title} · harness`;
  mark();
  settle();
  ahead();
}

function ahead() {
  for (const next of [current() + 1, current() + 2]) {
    if (next <= last()) part(address(next, view())).catch(() => {});
  }
}

function mark() {
  const step = String(current());
  for (const link of timeline.querySelectorAll("[aria-current]")) link.removeAttribute("aria-current");
  const link = timeline.querySelector(`a[data-step="${step}"]`);
  if (!link) return;
  link.setAttribute("aria-current", "step");
  const box = timeline.closest(".timeline");
  const item = link.getBoundingClientRect();
  const frame = box.getBoundingClientRect();
  const above = frame.top + 48;
  if (item.top < above || item.bottom > frame.bottom) {
    box.scrollTop += item.top - frame.top - frame.height / 2;
  }
}

// The first changed line is what one came to see.
function settle() {
  const box = panel.querySelector(".scroll.tall");
  const line = box && box.querySelector(".changed, .cut");
  if (line) box.scrollTop = Math.max(0, line.offsetTop - 70);
}

function move(by) {
  const to = current() + by;
  if (to >= 0 && to <= last()) show(address(to, view()), true);
}

if (panel) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = event.target instanceof Element ? event.target : body;
    if (at.closest("input, select, textarea")) return;
    const inCode = at.closest(".scroll");
    const by = { j: 1, k: -1 }[event.key] || (inCode ? 0 : { ArrowRight: 1, ArrowLeft: -1 }[event.key]);
    if (by) {
      event.preventDefault();
      move(by);
    } else if (event.key === "Home" && event.shiftKey) {
      show(address(0, view()), true);
    }
  });
  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const link = event.target.closest("a[data-step], a[data-part]");
    if (!link) return;
    event.preventDefault();
    const step = link.dataset.step;
    show(step === undefined ? link.getAttribute("href") : address(step, view()), true);
    if (step !== undefined && window.matchMedia("(max-width: 860px)").matches) panel.scrollIntoView();
  });
  window.addEventListener("popstate", (event) => {
    show(event.state ? event.state.url : location.pathname + location.search, false);
  });
  const linked = /^#step-(\d+)$/.exec(location.hash);
  history.replaceState({ url: address(linked ? linked[1] : current(), view()) }, "");
  if (linked) show(address(linked[1], view()), false);
  else {
    mark();
    settle();
    ahead();
  }
}

// ── live ─────────────────────────────────────────────────────────────────────────────────────

async function follow() {
  const response = await fetch(body.dataset.live);
  if (!response.ok) return;
  const told = await response.json();
  const progress = document.getElementById("progress");
  if (progress) {
    progress.textContent = told.progress;
    progress.hidden = !told.progress;
  }
  if (told.version === body.dataset.version) return;
  body.dataset.version = told.version;
  if ("reload" in body.dataset) {
    location.reload();
    return;
  }
  const atEnd = current() === last();
  const list = await fetch(`${session}?part=timeline`);
  timeline.replaceChildren(...nodes(await list.text()));
  known.clear();
  if (atEnd && told.steps > current()) show(address(told.steps, view()), true);
  else mark();
  if (told.state !== "open") location.reload();
}

async function refresh() {
  const rows = document.getElementById("rows");
  const response = await fetch(location.pathname + location.search);
  if (!response.ok || rows.contains(document.activeElement)) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  rows.replaceChildren(...page.getElementById("rows").childNodes);
}

function repeat(task, seconds) {
  const again = async () => {
    if (!document.hidden) await task().catch(() => {});
    setTimeout(again, seconds * 1000);
  };
  setTimeout(again, seconds * 1000);
}

if (body.dataset.live) repeat(follow, 1.5);
if (body.dataset.rows) repeat(refresh, 5);

// ── curves ───────────────────────────────────────────────────────────────────────────────────

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function draw() {
  const style = getComputedStyle(document.documentElement);
  const ink = style.getPropertyValue("--ink").trim();
  const line = style.getPropertyValue("--line").trim();
  const colours = dark.matches
    ? ["#9aa5b5", "#8fb0ff", "#7fdba0", "#f3c46b", "#ff9aa2", "#d7a1f5"]
    : ["#7a8494", "#2b50c8", "#116a37", "#b06a00", "#a61b2b", "#7a1fa2"];
  for (const box of document.querySelectorAll("[data-plot]")) {
    const plot = JSON.parse(box.parentElement.querySelector("script").textContent);
    const traces = plot.lines.map((one, index) => ({
      x: one.x,
      y: one.y,
      name: one.name.replaceAll("<", "‹"), // plotly reads a few tags in names
      mode: one.x.length > 60 ? "lines" : "lines+markers",
      line: { color: colours[index % colours.length], dash: one.name === "unedited file" ? "dash" : "solid" },
    }));
    const axis = { gridcolor: line, zeroline: false, automargin: true };
    box.classList.add("drawn");
    Plotly.react(box, traces, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12 },
      margin: { l: 50, r: 10, t: 10, b: 40 },
      xaxis: { ...axis, title: { text: "step" } },
      yaxis: { ...axis },
      legend: { orientation: "h", y: -0.2 },
      showlegend: true,
    }, { responsive: true, displaylogo: false, displayModeBar: false });
  }
}

if (typeof Plotly !== "undefined") {
  draw();
  dark.addEventListener("change", draw);
}
