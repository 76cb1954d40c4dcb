// The page Review pairs: decides by keys, keeps drafts and decisions that the gateway has not confirmed.
"use strict";

const USER = meta("user");
const OUTBOX = `ragtune-outbox-${USER}`;
const draftName = (key) => `ragtune-draft-${USER}-${key}`;
const field = (name) => document.getElementById(`pair-${name}`);
const pair = () => document.getElementById("pair");
const FIELDS = ["question", "answer", "comment"];
let shownAt = performance.now();
let busy = false;

const stored = (name, otherwise) => { try { return JSON.parse(localStorage.getItem(name)) ?? otherwise; } catch { return otherwise; } };

// A draft is what differs from the pair. It stays until a decision on the pair is stored.
function currentDraft() {
  const draft = {};
  const original = { question: pair().dataset.question, answer: pair().dataset.answer, comment: "" };
  for (const name of FIELDS) if (field(name).value !== original[name]) draft[name] = field(name).value;
  return draft;
}
function keepDraft() {
  const draft = currentDraft();
  if (Object.keys(draft).length) localStorage.setItem(draftName(pair().dataset.key), JSON.stringify(draft));
  else localStorage.removeItem(draftName(pair().dataset.key));
}
function edit(open) {
  for (const name of ["question", "answer"]) field(name).hidden = !open;
  for (const value of pair().querySelectorAll("[data-reading]")) value.hidden = open;
  pair().querySelector("[data-verdict=correct]").hidden = !open;
  document.getElementById("cancel").hidden = !open;
  for (const button of pair().querySelectorAll("#edit, #reject-because, [data-verdict=accept], [data-verdict=reject]")) button.hidden = open;
}
function startEditing() {
  edit(true);
  for (const name of ["question", "answer"]) field(name).setSelectionRange(field(name).value.length, field(name).value.length);
  field("question").focus();
}
function showPair() {
  shownAt = performance.now();
  if (!pair()) return;
  const draft = stored(draftName(pair().dataset.key), null);
  if (draft) {
    for (const name of FIELDS) if (name in draft) field(name).value = draft[name];
    if ("question" in draft || "answer" in draft) edit(true);
    document.getElementById("draft").textContent = "Your draft is back.";
  }
  for (const name of FIELDS) field(name).addEventListener("input", keepDraft);
  document.querySelector(".queue [aria-current]")?.scrollIntoView({ block: "nearest" });
}

async function show(address) {
  await htmx.ajax("GET", address, { target: "#workspace", select: "#workspace", swap: "outerHTML" });
  history.replaceState(null, "", address);
  showPair();
}
const links = () => [...document.querySelectorAll(".queue a[data-key]")];
const place = () => links().findIndex((link) => link.hasAttribute("aria-current"));
async function go(step) {
  const next = links()[place() + step];
  if (next) return show(next.getAttribute("href"));
  const other = document.querySelector(step > 0 ? ".queue a[rel=next]" : ".queue a[rel=prev]");
  if (other) return show(other.getAttribute("href"));
}

// A decision leaves the outbox only when the gateway has stored it, so a closed tab loses none.
async function send(decision) {
  const outbox = stored(OUTBOX, []);
  localStorage.setItem(OUTBOX, JSON.stringify([...outbox, decision]));
  return flush();
}
async function flush() {
  for (;;) {
    const [decision, ...rest] = stored(OUTBOX, []);
    if (!decision) return true;
    try {
      await call("/console/v1/review/decisions", decision, { keepalive: true });
      localStorage.removeItem(draftName(decision.key));
    } catch (error) {
      if (error.status === 400 || error.status === 404) { // sending it again would change nothing
        localStorage.setItem(OUTBOX, JSON.stringify(rest));
        showBanner(error.message);
        return false;
      }
      const waiting = rest.length + 1;
      showBanner(`${waiting} decision${waiting > 1 ? "s wait" : " waits"} in this browser and will be sent again. ${error.message}`);
      return false;
    }
    localStorage.setItem(OUTBOX, JSON.stringify(stored(OUTBOX, []).slice(1)));
  }
}

const DONE = { accept: "Accepted", reject: "Rejected", correct: "Corrected", comment: "Comment stored" };
function keepPace(verdict) {
  const seconds = (performance.now() - shownAt) / 1000;
  const all = [...JSON.parse(sessionStorage.getItem("ragtune-pace") ?? "[]"), seconds].slice(-200);
  sessionStorage.setItem("ragtune-pace", JSON.stringify(all));
  showPace(`${DONE[verdict]}; u goes back. `);
}
function showPace(last = "") {
  const all = JSON.parse(sessionStorage.getItem("ragtune-pace") ?? "[]").sort((one, other) => one - other);
  if (all.length) document.getElementById("pace").textContent = `${last}${all.length} decided, ${all[all.length >> 1].toFixed(0)} s a pair`;
}

async function decide(verdict) {
  if (busy || !pair()) return;
  const key = pair().dataset.key, draft = currentDraft();
  const decision = { key, verdict, comment: (draft.comment ?? "").trim() };
  if (verdict === "correct") {
    Object.assign(decision, { question: draft.question ?? "", answer: draft.answer ?? "" });
    if (!decision.question.trim() && !decision.answer.trim()) return showBanner("The correction is empty: change the question or the answer, or accept the pair.");
  } else if ("question" in draft || "answer" in draft) {
    return showBanner("The pair has changes that are not saved. Save the correction, or discard it first.");
  }
  if (verdict === "comment" && !decision.comment) { field("comment").focus(); return showBanner("Write the comment first.", true); }
  showBanner("");
  busy = true;
  try {
    const queue = document.getElementById("workspace").dataset;
    const at = place(), all = links();
    const next = all[at + 1] ?? (at > 0 ? all[at - 1] : null);
    if (!(await send(decision))) return;
    sessionStorage.setItem("ragtune-last", key);
    keepPace(verdict);
    const leaves = queue.show !== "all" && queue.show !== "decided";
    const nextPage = document.querySelector(".queue a[rel=next]");
    if (all[at + 1] || !nextPage) await show(next && next.dataset.key !== key ? next.getAttribute("href") : `/console/reviews?show=${queue.show}${queue.suffix}`);
    else await show(leaves ? `/console/reviews?show=${queue.show}&page=${queue.page}${queue.suffix}` : nextPage.getAttribute("href"));
    document.body.dispatchEvent(new Event("decided"));
  } finally { busy = false; }
}

async function getMore() {
  try {
    const given = await (await call("/console/v1/review/assignments", { count: 20 })).json();
    await show("/console/reviews?show=mine");
    showBanner(given.given ? `You got ${given.given} more pairs.` : "No pair needs another reviewer now.", true);
    document.body.dispatchEvent(new Event("decided"));
  } catch (error) { showBanner(error.message); }
}

document.addEventListener("submit", (event) => {
  if (event.target.id !== "find") return;
  event.preventDefault();
  document.activeElement.blur();
  show(`/console/reviews?${new URLSearchParams(new FormData(event.target))}`);
});
document.addEventListener("click", (event) => {
  const verdict = event.target.closest("[data-verdict]");
  if (verdict) decide(verdict.dataset.verdict);
  if (event.target.closest("#edit")) startEditing();
  if (event.target.closest("#reject-because")) askReason();
  const reason = event.target.closest("[data-reason]");
  if (reason) rejectBecause(reason.dataset.reason);
  if (event.target.closest("#cancel")) discard();
  if (event.target.closest("#get-more")) getMore();
  const link = event.target.closest(".queue a, .tabs a");
  if (link && !event.ctrlKey && !event.metaKey) { event.preventDefault(); show(link.getAttribute("href")); }
  const passage = event.target.closest("#open-document");
  if (passage && !event.ctrlKey && !event.metaKey) { event.preventDefault(); openPassage(passage.getAttribute("href")); }
});
function discard() {
  field("question").value = pair().dataset.question;
  field("answer").value = pair().dataset.answer;
  keepDraft();
  edit(false);
  pair().focus({ preventScroll: true });
}

function askReason() {
  if (pair() && field("question").hidden) document.getElementById("reasons").showModal();
}
function rejectBecause(reason) {
  document.getElementById("reasons").close();
  const own = field("comment").value.trim();
  field("comment").value = own ? `${reason}: ${own}` : reason;
  keepDraft();
  return decide("reject");
}

const ACTIONS = {
  x: askReason,
  a: () => decide("accept"), r: () => decide("reject"), m: () => decide("comment"),
  e: startEditing,
  c: () => field("comment").focus(),
  j: () => go(1), ArrowDown: () => go(1), k: () => go(-1), ArrowUp: () => go(-1),
  u: () => { const last = sessionStorage.getItem("ragtune-last"); if (last) show(`/console/reviews?show=decided&key=${last}`); },
  s: () => document.getElementById("search-all")?.click(),
  d: () => document.getElementById("open-document")?.click(),
  g: getMore,
  "/": () => document.querySelector("#find input[type=search]")?.focus(),
};
document.addEventListener("keydown", (event) => {
  const reasons = document.getElementById("reasons");
  if (reasons.open) return void reasons.querySelectorAll("[data-reason]")[Number(event.key) - 1]?.click();
  if (document.querySelector("dialog[open]")) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") { keepDraft(); pair()?.focus({ preventScroll: true }); }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && pair()?.contains(event.target)) {
      event.preventDefault();
      decide(field("question").hidden ? "comment" : "correct");
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest(".passage-text, .queue ol") && event.key.startsWith("Arrow")) return; // these scroll
  const tab = document.querySelectorAll(".tabs a")[Number(event.key) - 1];
  if (tab) { event.preventDefault(); show(tab.getAttribute("href")); return; }
  const action = ACTIONS[event.key];
  if (action && (pair() || ["g", "u", "/"].includes(event.key))) { event.preventDefault(); action(); }
});

document.addEventListener("gateway-back", flush);
showPair();
showPace();
if (stored(OUTBOX, []).length) flush().then((done) => { if (done) location.reload(); });
