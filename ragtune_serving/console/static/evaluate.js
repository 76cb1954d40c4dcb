// The page Evaluate: shows one task at a time, keeps a draft of its choices, shows results and agreement.
"use strict";

const rate = document.getElementById("rate"), results = document.getElementById("results");
const chooser = document.getElementById("study");
let studies = [], task = null, choices = {}, at = 0, shownAt = 0;
let back = 0; // how many rated tasks ago the shown one was rated; 0: it is the next open one

const node = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
};
const study = () => studies.find((one) => one.name === chooser.value);
const draftName = () => `ragtune-rating-${meta("user")}-${task.task}`;
const get = async (path) => (await call(`/console/v1/studies/${path}`)).json();
const empty = (text, more) => node("div", { class: "empty" }, node("p", {}, text), node("p", { class: "muted" }, more));
const interval = (one) => `${one.value.toFixed(2)} [${one.low.toFixed(2)}, ${one.high.toFixed(2)}]`;

// The numbers by which an answer cites its sources, in the order of the sources; none if they do not fit together.
function marksOf(answer) {
  const marks = [...answer.text.matchAll(/\[(\d+(?:,\s*\d+)*)\]/g)].flatMap((match) => match[1].split(/,\s*/));
  const numbers = [...new Set(marks)];
  return numbers.length === answer.sources.length ? numbers : [];
}

function answerCard(answer, title) {
  const marks = marksOf(answer);
  return node("section", { class: "card", "aria-label": title }, node("p", { class: "small muted" }, title),
    node("div", { class: "pre" }, answer.text),
    ...(answer.sources.length ? [node("h3", {}, "Sources"), ...answer.sources.map((text, number) => node("div", { class: "pre source" }, ...(marks.length ? [node("span", { class: "tag" }, marks[number]), " "] : []), ...passageNodes(text)))] : []));
}

// Open before the first rating, unless the annotator closed it: who rates for the first time has to read it.
function guideline(card) {
  const name = `ragtune-guideline-${meta("user")}-${card.name}`;
  const details = node("details", { class: "guideline", ontoggle: () => localStorage.setItem(name, details.open ? "open" : "closed") },
    node("summary", {}, "Guideline"), node("div", { class: "card" }, ...guidelineNodes(card.guideline)));
  details.open = localStorage.getItem(name) !== "closed" && card.rated === 0;
  return details;
}

function showTask(open) {
  const card = study();
  const titles = task.answers.length > 1 ? ["Left", "Right"] : ["Answer"];
  const questions = card.questions.map((name, place) => node("fieldset", { "data-question": name },
    node("legend", {}, name, " ", node("span", { class: "small muted" }, card.meanings[name])),
    node("div", { class: "row" }, ...card.choices.map((choice, number) => node("button", {
      type: "button", "aria-pressed": String(choices[name] === choice), onclick: () => { at = place; choose(choice); },
    }, choice, " ", node("kbd", {}, String(number + 1)))))));
  const comment = node("textarea", { id: "comment", rows: "2", placeholder: "What decided it, if it is not obvious", "aria-label": "Comment", maxlength: "4000", oninput: keepDraft });
  comment.value = choices[""] ?? "";
  rate.replaceChildren(
    node("p", { class: "muted", id: "place" }, back ? "You rated this one already. What you save now replaces it." : `${card.rated} rated, ${open} left`),
    node("progress", { max: String(card.rated + open), value: String(card.rated), "aria-label": "Rated tasks" }),
    guideline(card),
    node("h2", {}, task.question),
    node("div", { class: task.answers.length > 1 ? "answers two" : "answers" }, ...task.answers.map((answer, place) => answerCard(answer, titles[place]))),
    // Below the answer, so that it is read first.
    ...(task.expected ? [node("p", { class: "expected" }, node("strong", {}, "Expected: "), task.expected)] : []),
    node("form", { id: "rubric", onsubmit: (event) => { event.preventDefault(); save(); } }, ...questions, comment,
      node("div", { class: "row" }, node("button", { type: "submit", class: "primary", id: "save" }, "Save ", node("kbd", {}, "Enter")),
        node("button", { type: "button", id: "later", onclick: putOff }, "Put off ", node("kbd", {}, "n")),
        node("button", { type: "button", class: "quiet", id: "before", onclick: goBack }, "Rated before ", node("kbd", {}, "u")))));
  mark();
}
function mark() {
  const fieldsets = [...rate.querySelectorAll("fieldset")];
  fieldsets.forEach((one, place) => one.toggleAttribute("data-now", place === at));
  document.getElementById("save").disabled = fieldsets.some((one) => !(one.dataset.question in choices));
}
function choose(choice) {
  const fieldset = rate.querySelectorAll("fieldset")[at];
  choices[fieldset.dataset.question] = choice;
  study().choices.forEach((one, place) => fieldset.querySelectorAll("button")[place].setAttribute("aria-pressed", String(one === choice)));
  at = Math.min(at + 1, study().questions.length - 1);
  keepDraft();
  mark();
}
function keepDraft() {
  choices[""] = document.getElementById("comment").value;
  localStorage.setItem(draftName(), JSON.stringify(choices));
}

async function send(body) {
  try {
    await call("/console/v1/studies/ratings", { task: task.task, seconds: (performance.now() - shownAt) / 1000, ...body }, { keepalive: true });
    localStorage.removeItem(draftName());
    showBanner("");
    await load();
  } catch (error) { showBanner(`Not stored yet; your choices are kept in this browser. ${error.message}`); }
}
function save() {
  if (document.getElementById("save").disabled) return showBanner("Every question needs a choice. “cannot judge” is one.", true);
  const { "": comment = "", ...made } = choices;
  return send({ choices: made, comment });
}
const putOff = () => send({});

// One step back through what was rated; a choice can be changed, and the newest one counts.
async function goBack() {
  try {
    const page = await get(`tasks?${new URLSearchParams({ study: chooser.value, show: "rated", limit: back + 1 })}`);
    const before = page.tasks[back];
    if (!before) return showBanner(back ? "This is the first one that you rated." : "You have not rated anything in this study yet.", true);
    back += 1;
    task = before;
    choices = { ...task.choices, "": task.comment };
    at = 0;
    shownAt = performance.now();
    showBanner("");
    showTask(page.open);
  } catch (error) { showBanner(error.message); }
}

async function load() {
  back = 0;
  studies = await get("mine");
  const chosen = chooser.value || location.hash.slice(1);
  const own = studies.find((one) => one.name === chosen) ?? studies.find((one) => one.rated < one.tasks) ?? studies[0];
  chooser.replaceChildren(...studies.map((one) => node("option", { value: one.name }, `${one.name} (${one.rated} of ${one.tasks})`)));
  if (!own) return rate.replaceChildren(empty("There is no study yet.", "ragtune evaluate create NAME makes one, and ragtune evaluate assign gives it to people."));
  chooser.value = own.name;
  const page = await get(`tasks?${new URLSearchParams({ study: own.name, limit: 1 })}`);
  if (!page.tasks.length) return rate.replaceChildren(empty(own.tasks ? "You have rated everything that was assigned to you." : "Nothing of this study is assigned to you.", "Choose another study above, or ask for more."));
  task = page.tasks[0];
  try { choices = JSON.parse(localStorage.getItem(draftName())) ?? { "": task.comment }; } catch { choices = {}; }
  at = Math.max(0, own.questions.findIndex((name) => !(name in choices)));
  shownAt = performance.now();
  showTask(page.open);
}

const table = (name, heads, rows) => node("div", { class: "table", tabindex: "0", role: "region", "aria-label": name }, node("table", {},
  node("thead", {}, node("tr", {}, ...heads.map((head) => node("th", { scope: "col" }, head)))),
  node("tbody", {}, ...rows.map((row) => node("tr", {}, ...row.map((cell) => node("td", {}, cell)))))));

async function showResults() {
  results.replaceChildren(node("p", { class: "loading" }, "Counting …"));
  if (!study()) return results.replaceChildren(empty("There is no study yet.", "ragtune evaluate create NAME makes one."));
  const report = await get(`agreement?${new URLSearchParams({ study: chooser.value })}`);
  const agreement = (name, rows) => table(name, ["Question", "Annotators", "Items", "Equal", "Alpha", "AC2", "Kappa"], rows.map((row) =>
    [row.question, row.annotators.join(", "), String(row.items), `${Math.round(100 * row.percent)}%`, interval(row.alpha), interval(row.ac2), interval(row.kappa)]));
  results.replaceChildren(
    node("p", { class: "muted" }, `${report.ratings} ratings of ${report.items} items by ${report.annotators.join(", ") || "nobody yet"}; ${report.cannot_judge} times “cannot judge”; ${report.repeats} tasks came back.`),
    ...(report.models.length ? [node("h2", {}, "Models"), table("Models", ["Model", "Question", "Mean [95%]", "n"], report.models.map((row) => [row.model, row.question, interval(row), String(row.n)]))] : []),
    ...(report.agreement.length ? [node("h2", {}, "Agreement of all"), agreement("Agreement of all", report.agreement)] : []),
    ...(report.pairs.length ? [node("h2", {}, "Agreement of two, the lowest first"), agreement("Agreement of two", report.pairs)] : []),
    node("h2", {}, "Disputed items"),
    ...(report.hidden ? [node("p", { class: "note" }, `${report.hidden} more appear${report.hidden === 1 ? "s" : ""} once you have rated what is left to you, so that nobody leads you.`)] : []),
    ...(report.disputed.length ? report.disputed.map(disputed) : report.hidden ? [] : [node("p", { class: "muted" }, "Nobody disagrees.")]));
}
function disputed(item) {
  const said = node("span", { class: "small muted", role: "status" }, item.adjudicated ? `settled: ${item.adjudicated}` : "");
  const pairwise = study().mode === "pairwise";
  const finals = pairwise ? ["first", "second", "neither"] : study().choices.filter((choice) => choice !== "cannot judge");
  const settle = async (choice) => {
    try {
      await call("/console/v1/studies/adjudications", { study: chooser.value, item: item.item, question: item.question, choice });
      said.textContent = `settled: ${choice}`;
    } catch (error) { showBanner(error.message); }
  };
  return node("section", { class: "card", "aria-label": `Disputed: ${item.question}: ${item.asked}` }, node("strong", {}, `${item.question}: ${item.asked}`),
    ...item.answers.map((text) => node("p", { class: "pre" }, text)),
    node("p", { class: "muted" }, Object.entries(item.choices).map(([name, choice]) => `${name}: ${choice}`).join(", ")),
    node("div", { class: "row" }, ...finals.map((choice) => node("button", { type: "button", onclick: () => settle(choice) }, choice)), said));
}

async function run(work) {
  try { await work(); } catch (error) {
    (results.hidden ? rate : results).replaceChildren(empty(error.status === 404 ? "This gateway has no studies." : error.message, "Load the page again to try once more."));
  }
}
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || !study() || rate.hidden) return;
  if (isTyping(event.target)) { if (event.key === "Escape") event.target.blur(); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "u") return void goBack();
  if (!task || !document.getElementById("rubric")) return;
  const choice = study().choices[Number(event.key) - 1];
  if (choice) {
    event.preventDefault();
    rate.focus({ preventScroll: true }); // so that Enter saves, and does not open the guideline that was clicked before
    choose(choice);
  }
  else if (event.key === "k") { at = Math.max(0, at - 1); mark(); }
  else if (event.key === "c") { event.preventDefault(); document.getElementById("comment").focus(); }
  else if (event.key === "n") putOff();
  else if (event.key === "Enter" && !event.target.closest("button, a, summary")) { event.preventDefault(); save(); }
});
chooser.addEventListener("change", () => run(results.hidden ? load : showResults));
for (const link of document.querySelectorAll("[data-part]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    for (const other of document.querySelectorAll("[data-part]")) {
      const chosen = other === link;
      other.toggleAttribute("aria-current", chosen);
      if (chosen) other.setAttribute("aria-current", "page");
      document.getElementById(other.dataset.part).hidden = !chosen;
    }
    run(link.dataset.part === "results" ? showResults : load);
  });
}
run(load);
