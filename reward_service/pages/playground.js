// The playground: reads the form, sends the texts, shows scores, a comparison, or the request as code.

import {fetchInfo, score, scoreUrl, ServiceError, slice} from "./api.js";
import {comparison} from "./compare.js";
import {byId, count, element} from "./dom.js";
import {InputError, looksLikeJsonLines, readJsonLines, readLines} from "./inputs.js";
import {scoreTable, summary} from "./results.js";
import {chosenRewards, showRewards} from "./rewards.js";
import {curlCommand, pythonProgram, SNIPPET_TEXTS} from "./snippets.js";

const EXAMPLES = [
  "Sure: it is yellow banana",
  "What a wonderful film, I would watch it again tomorrow!",
  "The train leaves at nine.",
  "It was dull, far too long, and nobody could act.",
  "Not bad at all.",
];
const PAGE_ROWS = 100;

const state = {
  info: null, // what GET /v1/rewards says
  file: null, // {name, text, isJsonLines}
  run: null, // {texts, results, infos} of the last run
  view: {sort: null, parts: true, rows: PAGE_ROWS},
  plotWidth: 0, // of the comparison as it is drawn, in pixels
  stopping: null, // the AbortController of the work under way
};

// --- reading the form ---

function readTexts() {
  if (state.file) return state.file.isJsonLines ? readJsonLines(state.file.text) : readLines(state.file.text);
  const pasted = byId("completions").value;
  return chosen("format") === "jsonl" ? readJsonLines(pasted) : readLines(pasted, byId("prompts").value);
}

function readForm() {
  const rewards = chosenRewards(byId("rewards"));
  if (!rewards.length) throw new InputError("Choose at least one reward.");
  return {rewards, texts: readTexts()};
}

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

// --- talking to the service ---

/** Run one piece of work at a time; show how it ends. Returns whether it was completed. */
async function attempt(work) {
  if (state.stopping) return false;
  state.stopping = new AbortController();
  say("");
  complain("");
  complain("", "key-problem");
  busy(true);
  try {
    await work({key: byId("key").value.trim(), signal: state.stopping.signal, onWait: say});
    return true;
  } catch (error) {
    say(state.stopping.signal.aborted ? "Stopped." : "");
    if (!state.stopping.signal.aborted) fail(error);
    return false;
  } finally {
    state.stopping = null;
    busy(false);
  }
}

async function loadInfo(options) {
  say("Asking the service for its rewards …");
  state.info = await fetchInfo(options.key, options);
  say("");
  byId("version").textContent = state.info.version;
  showRewards(byId("rewards"), state.info.rewards, state.info.default);
}

async function submit(options) {
  if (!state.info) await loadInfo(options);
  const {rewards, texts} = readForm();
  const infos = new Map(state.info.rewards.map((reward) => [reward.name, reward]));
  const all = texts.completions.length;
  const run = {texts, infos, results: {rewards: {}, queueMs: 0, computeMs: 0}};
  const onProgress = (results, scored) => {
    run.results = results;
    progress(scored, all);
    say(`${scored.toLocaleString("en")} of ${count(all, "text")} scored.`);
  };
  progress(0, all);
  say(`Scoring ${count(all, "text")} …`);
  try {
    await score(texts, {...options, rewards, limits: state.info.limits, onProgress});
    say(summary(run));
  } finally {
    if (Object.keys(run.results.rewards).length) showRun(run);
  }
}

/** Score, and bring the results into view where they lie below the form. */
async function scoreAndShow() {
  const {top} = byId("output").getBoundingClientRect();
  if (top > innerHeight / 2) byId("output").scrollIntoView();
  await attempt(submit);
}

function fail(error) {
  if (error.status === 401) {
    byId("key-section").hidden = false;
    complain(error.message, "key-problem");
    byId("key").focus();
    if (!state.info) byId("rewards").replaceChildren(element("li", {class: "note"}, "Enter the API key to see the rewards."));
    return;
  }
  complain(error.message);
  if (!(error instanceof InputError) && !(error instanceof ServiceError)) console.error(error);
}

// --- showing ---

const say = (sentence) => { byId("status").textContent = sentence; };
const complain = (sentence, id = "problem") => { byId(id).textContent = sentence; };

function busy(isBusy) {
  byId("submit").disabled = byId("unlock").disabled = isBusy;
  byId("stop").hidden = !isBusy;
  byId("output").setAttribute("aria-busy", isBusy);
  if (!isBusy) byId("progress").hidden = true;
}

function progress(scored, all) {
  Object.assign(byId("progress"), {hidden: false, max: all, value: scored});
}

function showRun(run) {
  state.run = run;
  state.view = {...state.view, sort: null, rows: PAGE_ROWS};
  const names = Object.keys(run.results.rewards);
  for (const [id, place] of [["axis-x", 0], ["axis-y", 1]]) {
    const kept = names.includes(byId(id).value) ? byId(id).value : names[Math.min(place, names.length - 1)];
    byId(id).replaceChildren(...names.map((name) => element("option", {selected: name === kept}, name)));
  }
  if (names.length > 1 && byId("axis-x").value === byId("axis-y").value) {
    byId("axis-y").value = names.find((name) => name !== byId("axis-x").value);
  }
  byId("compare-note").hidden = names.length > 1;
  byId("axes").hidden = names.length < 2;
  byId("score-tools").hidden = false;
  showView();
}

function showView() {
  const view = chosen("view");
  for (const name of ["scores", "compare", "code"]) byId(`view-${name}`).hidden = name !== view;
  ({scores: showScores, compare: showComparison, code: showCode})[view]();
}

function showScores() {
  if (!state.run) return;
  byId("scores").replaceChildren(scoreTable(state.run, state.view, sortBy));
  byId("more").hidden = state.view.rows >= Object.values(state.run.results.rewards)[0].scores.length;
}

/** First by the highest score, then by the lowest, then as the texts came. */
function sortBy(name) {
  const {sort} = state.view;
  const next = sort?.name !== name ? {name, descending: true} : sort.descending ? {name, descending: false} : null;
  state.view = {...state.view, sort: next};
  showScores();
  document.querySelector(`button[data-reward="${CSS.escape(name)}"]`).focus();
}

function showComparison() {
  if (!state.run || byId("axes").hidden) {
    byId("comparison").replaceChildren();
    return;
  }
  const pair = {x: byId("axis-x").value, y: byId("axis-y").value};
  state.plotWidth = byId("comparison").clientWidth;
  byId("comparison").replaceChildren(...comparison(state.run, pair, Math.min(896, state.plotWidth)));
}

function showCode() {
  let request;
  try {
    request = readForm();
  } catch (error) {
    byId("code-note").textContent = error.message;
    byId("python").textContent = byId("curl").textContent = "";
    return;
  }
  const {rewards, texts} = request;
  const body = {...slice(texts, 0, SNIPPET_TEXTS), rewards, details: true};
  const needsKey = !byId("key-section").hidden;
  const all = texts.completions.length;
  byId("code-note").textContent = [
    all > SNIPPET_TEXTS && `The first ${SNIPPET_TEXTS} of ${count(all, "text")}.`,
    needsKey && "The API key is read from the environment variable REWARD_API_KEY.",
  ].filter(Boolean).join(" ");
  byId("python").textContent = pythonProgram(scoreUrl, body, needsKey);
  byId("curl").textContent = curlCommand(scoreUrl, body, needsKey);
}

function showFormat() {
  const isJsonLines = chosen("format") === "jsonl";
  byId("completions-label").textContent = isJsonLines ? "One JSON value a line" : "One text a line";
  byId("prompts-section").hidden = isJsonLines;
  byId("pasted").hidden = state.file !== null;
  byId("loaded").hidden = state.file === null;
  const meant = !isJsonLines && looksLikeJsonLines(byId("completions").value);
  byId("hint").textContent = isJsonLines
    ? 'A string, a chat, or {"completion": …, "prompt": …}; further fields are sent as columns.'
    : meant ? "Every line is JSON: choose “JSON Lines” to read it as such." : "";
  if (chosen("view") === "code") showCode();
}

// --- files, copying, downloading ---

async function openFile(file) {
  if (!file) return;
  try {
    state.file = {name: file.name, text: await file.text(), isJsonLines: !file.name.toLowerCase().endsWith(".txt")};
    const {completions, prompts} = readTexts();
    byId("loaded-name").textContent = `${file.name}: ${count(completions.length, "text")}${prompts ? " with prompts" : ""}.`;
    complain("");
  } catch (error) {
    state.file = null;
    complain(`${file.name}: ${error.message}`);
  }
  byId("file").value = "";
  showFormat();
}

async function copy(button) {
  const source = byId(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(source.textContent);
  } catch { // only pages over HTTPS or on this machine may use the clipboard
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

function download() {
  const {texts: {completions, prompts}, results} = state.run;
  const pick = (key, index) => Object.fromEntries(Object.entries(results.rewards).map(
    ([name, reward]) => [name, reward[key][index] ?? null]));
  const scored = Object.values(results.rewards)[0].scores.length;
  const lines = completions.slice(0, scored).map((completion, index) => JSON.stringify({
    ...(prompts && {prompt: prompts[index]}), completion, scores: pick("scores", index), errors: pick("errors", index),
  }));
  const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], {type: "application/x-ndjson"}));
  element("a", {href: url, download: "scores.jsonl"}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

// --- wiring ---

const on = (id, event, handler) => byId(id).addEventListener(event, handler);

on("form", "submit", (event) => { event.preventDefault(); scoreAndShow(); });
on("form", "keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); scoreAndShow(); }
  else if (event.key === "Enter" && event.target.id === "key") { event.preventDefault(); attempt(loadInfo); }
});
on("unlock", "click", () => attempt(loadInfo));
on("stop", "click", () => state.stopping?.abort());
on("form", "input", showFormat);
on("form", "change", (event) => { if (event.target.name === "reward" && chosen("view") === "code") showCode(); });
on("file", "change", (event) => openFile(event.target.files[0]));
on("remove", "click", () => { state.file = null; showFormat(); byId("completions").focus(); });
on("show-parts", "change", (event) => { state.view.parts = event.target.checked; showScores(); });
on("more", "click", () => { state.view.rows += PAGE_ROWS; showScores(); });
on("download", "click", download);
for (const id of ["axis-x", "axis-y"]) on(id, "change", showComparison);
for (const radio of document.querySelectorAll("input[name=view]")) radio.addEventListener("change", showView);
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));

on("texts", "dragover", (event) => { event.preventDefault(); byId("texts").classList.add("dragging"); });
on("texts", "dragleave", () => byId("texts").classList.remove("dragging"));
on("texts", "drop", (event) => {
  event.preventDefault();
  byId("texts").classList.remove("dragging");
  openFile(event.dataTransfer.files[0]);
});
new ResizeObserver(() => {
  if (!byId("view-compare").hidden && byId("comparison").clientWidth !== state.plotWidth) showComparison();
}).observe(byId("output"));

byId("completions").value = EXAMPLES.join("\n");
showFormat();
if (await attempt(loadInfo)) await attempt(submit);
