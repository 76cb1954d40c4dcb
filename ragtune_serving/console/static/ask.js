// The page Ask: sends questions, shows the answers as they are written, opens what they cite, sends verdicts.
"use strict";

const conversation = document.getElementById("conversation");
const question = document.getElementById("question");
const KEPT = `ragtune-conversation-${meta("user")}`;
let history = []; // what the first model was asked and answered, in the format of the API
let running = null;

const element = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
};

function controls() {
  const dials = {}, switches = {};
  for (const input of document.querySelectorAll("#style input[type=range]")) dials[input.name] = Number(input.value);
  for (const input of document.querySelectorAll("#style input[type=checkbox]")) switches[input.name] = input.checked;
  return { dials, switches };
}

// Read server-sent events; call `onEvent` with the content of each.
async function readEvents(response, onEvent) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data !== "[DONE]") onEvent(JSON.parse(data));
    }
  }
}

// The words that a mark vouches for: the sentence before it.
function claimBefore(text, end) {
  const before = text.slice(0, end).replace(/\[\d+(,\s*\d+)*\]/g, " ").trimEnd();
  const start = Math.max(0, ...[...before.slice(0, -1).matchAll(/[.!?]["”]?\s+|\n/g)].map((match) => match.index + match[0].length));
  return before.slice(start).trim();
}

const passageAddress = (citation, claim) =>
  `/console/documents/${encodeURIComponent(citation.document)}?${new URLSearchParams({ chunk: citation.chunk, words: claim.slice(0, 1000) })}`;
const closestAddress = (passage) => `/console/documents?${new URLSearchParams({ origin: passage.source, words: passage.sentence })}`;

// Write an answer: quotations as quotations, marks as buttons. Everything is text, never HTML.
function writeText(target, text, result) {
  target.replaceChildren();
  const citations = new Map((result?.citations ?? []).map((citation) => [citation.number, citation]));
  const parts = [];
  const quoted = result?.quotation ? text.indexOf(result.quotation) : -1;
  if (quoted >= 0) {
    const end = quoted + result.quotation.length;
    const open = "\"“".includes(text[quoted - 1] ?? " ") ? quoted - 1 : quoted;
    const close = "\"”".includes(text[end] ?? " ") ? end + 1 : end;
    parts.push(["text", text.slice(0, open), 0], ["quote", text.slice(open, close), open], ["text", text.slice(close), close]);
  } else parts.push(["text", text, 0]);
  for (const [kind, part, offset] of parts) {
    const into = kind === "quote" ? target.appendChild(element("q")) : target;
    let copied = 0;
    for (const match of part.matchAll(/\[(\d+(?:,\s*\d+)*)\]/g)) {
      const numbers = match[1].split(",").map(Number).filter((number) => citations.has(number));
      if (!numbers.length) continue;
      into.append(part.slice(copied, match.index));
      const claim = claimBefore(text, offset + match.index);
      for (const number of numbers) {
        const citation = citations.get(number);
        into.append(element("button", {
          type: "button", class: "mark", "aria-label": `Open passage ${number}: ${citation.title}`,
          onclick: () => openPassage(passageAddress(citation, claim)),
        }, String(number)));
      }
      copied = match.index + match[0].length;
    }
    into.append(part.slice(copied));
  }
}

// What people got, as the gateway says; an answer in the model's own words needs no tag.
const DELIVERED = {
  answer_and_quotation: ["accent", "answer with a quotation"], quotation: ["accent", "quotation"], refusal: ["warn", "not in the documents"],
};

const headingOf = (citation) => [citation.title, ...citation.headings].join(" › ");

function showResult(answer, text, result) {
  const target = answer.querySelector(".text");
  writeText(target, text, result);
  const from = answer.querySelector(".from");
  const version = result.model_version === "base" ? "base model" : result.model_version === "provider" ? "configured server" : `version ${result.model_version}`;
  from.append(element("span", {}, version), element("span", {}, `search ${Math.round(result.retrieval_ms)} ms`));
  const [kind, label] = DELIVERED[result.delivered] ?? [];
  if (label) from.append(element("span", { class: `tag ${kind}` }, label));
  const list = element("ul", { class: "sources" });
  for (const citation of result.citations) {
    const at = text.indexOf(`[${citation.number}]`);
    const claim = at < 0 ? "" : claimBefore(text, at);
    const page = citation.page ? `, page ${citation.page}` : "";
    list.append(element("li", {}, element("button", { type: "button", onclick: () => openPassage(passageAddress(citation, claim)) },
      element("span", { class: "tag accent" }, String(citation.number)),
      element("span", {}, headingOf(citation), element("span", { class: "where" }, ` ${citation.source}${page}`)))));
  }
  if (result.closest.length) list.append(element("li", { class: "small muted" }, "Closest passages, and how likely each answers the question:"));
  for (const passage of result.closest) {
    list.append(element("li", {}, element("button", { type: "button", onclick: () => openPassage(closestAddress(passage)) },
      element("span", { class: "tag" }, `${Math.round(100 * passage.score)}%`),
      element("span", {}, passage.sentence, element("span", { class: "where" }, ` ${passage.title} (${passage.source})`)))));
  }
  if (list.children.length) answer.append(list);
  if (result.warnings.length) {
    answer.append(element("details", { class: "small" }, element("summary", {}, `${result.warnings.length} ${result.warnings.length > 1 ? "remarks" : "remark"} of the checks`),
      element("ul", {}, ...result.warnings.map((warning) => element("li", {}, warning)))));
  }
  answer.append(verdictButtons(result.response_id));
}

function verdictButtons(responseId) {
  const said = element("span", { class: "small muted", role: "status" });
  const box = element("div", { class: "correction", hidden: "" });
  const send = async (verdict, rating) => {
    try {
      await call("/console/v1/feedback", { response_id: responseId, ...verdict });
      for (const [button, value] of [[up, "up"], [down, "down"]]) button.setAttribute("aria-pressed", String(rating === value));
      said.textContent = verdict.correction ? "Thank you. The correction is stored. Below, you see what becomes of it." : "Thank you.";
      if (verdict.correction) document.body.dispatchEvent(new Event("corrected"));
      box.hidden = true;
    } catch (error) { said.textContent = error.message; }
  };
  const up = element("button", { type: "button", "aria-pressed": "false", onclick: () => send({ rating: "up" }, "up") }, "Right");
  const down = element("button", { type: "button", "aria-pressed": "false", onclick: () => send({ rating: "down" }, "down") }, "Wrong");
  const right = element("textarea", { rows: "3", "aria-label": "What the answer should have been", placeholder: "What the answer should have been", maxlength: conversation.dataset.longest });
  box.append(right, element("div", { class: "row" },
    element("button", { type: "button", class: "primary", onclick: () => right.value.trim() && send({ rating: "down", correction: right.value }, "down") }, "Send the correction"),
    element("button", { type: "button", class: "quiet", onclick: () => { box.hidden = true; } }, "Cancel")));
  const correct = element("button", { type: "button", class: "quiet", onclick: () => { box.hidden = !box.hidden; right.focus(); } }, "Correct …");
  return element("div", { class: "actions" }, element("div", { class: "row" }, up, down, correct, said), box);
}

async function ask(model, messages, answers, signal) {
  const text = element("div", { class: "text waiting" });
  const answer = element("article", { class: "card answer", "aria-label": `Answer of ${model}` }, element("div", { class: "from" }, element("strong", {}, model)), text);
  answers.append(answer);
  let whole = "", result = null, failure = "";
  try {
    const response = await call("/console/v1/chat/completions", { model, messages, stream: true, ragtune: controls() }, { signal });
    await readEvents(response, (event) => {
      if (event.error) failure = event.error.message;
      whole += event.choices?.[0]?.delta?.content ?? "";
      result = event.ragtune ?? result;
      text.textContent = whole;
    });
    if (!failure && !result) failure = "The answer broke off: the gateway went away.";
  } catch (error) {
    failure = error.name === "AbortError" ? "Stopped." : error instanceof TypeError ? GATEWAY_AWAY : error.message;
  }
  text.classList.remove("waiting");
  if (result) showResult(answer, whole, result);
  if (failure) answer.append(element("p", { class: "note bad", role: "alert" }, failure));
  return result ? whole : null;
}

function showTurn(asked, two) {
  document.getElementById("nothing-asked")?.setAttribute("hidden", "");
  const answers = element("div", { class: two ? "answers two" : "answers" });
  conversation.append(element("section", { class: "turn" }, element("div", { class: "question" }, asked), answers));
  return answers;
}

document.getElementById("asker").addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = question.value.trim();
  if (!asked || running) return;
  const first = document.getElementById("model").value, second = document.getElementById("second").value;
  const messages = [...history, { role: "user", content: asked }];
  const answers = showTurn(asked, Boolean(second));
  running = new AbortController();
  question.value = "";
  document.getElementById("send").hidden = true;
  document.getElementById("stop").hidden = false;
  answers.scrollIntoView({ block: "nearest" });
  try {
    const models = second ? [first, second] : [first];
    const [reply] = await Promise.all(models.map((model) => ask(model, messages, answers, running.signal)));
    if (reply !== null) history = [...messages, { role: "assistant", content: reply }];
    else if (!question.value) question.value = asked;
  } finally {
    running = null;
    document.getElementById("send").hidden = false;
    document.getElementById("stop").hidden = true;
    sessionStorage.setItem(KEPT, JSON.stringify(history));
    question.focus({ preventScroll: true });
  }
});
document.getElementById("stop").addEventListener("click", () => running?.abort());
document.getElementById("new-conversation").addEventListener("click", () => {
  running?.abort();
  history = [];
  sessionStorage.removeItem(KEPT);
  for (const turn of conversation.querySelectorAll(".turn")) turn.remove();
  document.getElementById("nothing-asked").removeAttribute("hidden");
  question.focus();
});
question.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); event.target.form.requestSubmit(); }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !isTyping(event.target)) { event.preventDefault(); question.focus(); }
});
for (const input of document.querySelectorAll("#style input[type=range]")) {
  input.addEventListener("input", () => { input.parentElement.querySelector("output").textContent = input.value; });
}

// A reload keeps the conversation of this tab, without what can be clicked in it.
try { history = JSON.parse(sessionStorage.getItem(KEPT) ?? "[]"); } catch { history = []; }
for (let place = 0; place + 1 < history.length; place += 2) {
  const answers = showTurn(history[place].content, false);
  answers.append(element("article", { class: "card answer" }, element("div", { class: "text" }, history[place + 1].content)));
}
question.focus();
