// The table of scores: one row a text, one column a reward, sortable, with the parts of each score.

import {bar, count, element, fixedNumber, formatNumber, plainText} from "./dom.js";
import {rangeText} from "./rewards.js";
import {deviation, extent, mean} from "./statistics.js";

const PREVIEW_CHARS = 280;

/**
 * Return the table.
 *
 * `run` is {texts, results, infos}; `view` is {sort: {name, descending} or null, parts, rows}. `onSort(name)` is
 * called with a reward's name when its header is pressed.
 */
export function scoreTable(run, view, onSort) {
  const columns = Object.entries(run.results.rewards).map(([name, result]) => column(name, result, run.infos));
  const head = element("tr", {}, element("th", {scope: "col"}, "Text"),
    ...columns.map((reward) => headCell(reward, view.sort, onSort)));
  const rows = order(columns, view.sort).slice(0, view.rows).map((index) => element("tr", {},
    textCell(run.texts, index), ...columns.map((reward) => scoreCell(reward, index, view.parts))));
  return element("table", {class: "scores"}, element("thead", {}, head), element("tbody", {}, ...rows));
}

/** Return one sentence on a finished run, such as `5 texts scored by 2 rewards; 1 without a score.` */
export function summary({results}) {
  const all = Object.values(results.rewards);
  if (!all.length) return "";
  const failed = all.reduce((sum, {errors}) => sum + Object.keys(errors).length, 0);
  const cut = all.reduce((sum, {truncated}) => sum + truncated.length, 0);
  const notes = [failed && `${count(failed, "score")} missing`, cut && `${count(cut, "text")} cut off`].filter(Boolean);
  const done = `${count(all[0].scores.length, "text")} scored by ${count(all.length, "reward")}`;
  return `${[done, ...notes].join(", ")}. Waited ${milliseconds(results.queueMs)}, computed ${milliseconds(results.computeMs)}.`;
}

function milliseconds(ms) {
  return ms >= 1000 ? `${(ms / 1000).toFixed(1)} s` : `${formatNumber(ms, 1)} ms`;
}

function column(name, result, infos) {
  const info = infos.get(name);
  const scores = result.scores.filter((score) => score !== null);
  return {name, result, info, scores, decimals: scores.every(Number.isInteger) ? 0 : 3, scale: info?.range ?? extent([0, ...scores]),
    truncated: new Set(result.truncated), partScales: partScales(result.details, infos)};
}

/** Return the scale of each part that is a reward of its own: its range, or else what was seen of it. */
function partScales(details, infos) {
  const seen = new Map();
  for (const detail of details) {
    for (const [name, part] of Object.entries(detail ?? {})) {
      if (typeof part?.score === "number") seen.set(name, [...(seen.get(name) ?? [0]), part.score]);
    }
  }
  return new Map([...seen].map(([name, scores]) => [name, infos.get(name)?.range ?? extent(scores)]));
}

function order(columns, sort) {
  const indices = Array.from({length: columns[0]?.result.scores.length ?? 0}, (_, index) => index);
  if (!sort) return indices;
  const {scores} = columns.find(({name}) => name === sort.name).result;
  const sign = sort.descending ? -1 : 1;
  return indices.sort((a, b) => {
    if (scores[a] === null || scores[b] === null) return (scores[a] === null) - (scores[b] === null); // nulls last
    return sign * (scores[a] - scores[b]);
  });
}

function headCell({name, scores, info}, sort, onSort) {
  const sorted = sort?.name === name;
  const button = element("button", {type: "button", class: "sort", title: `Sort by ${name}`}, name,
    element("span", {"aria-hidden": "true"}, sorted ? (sort.descending ? " ↓" : " ↑") : " ↕"));
  button.dataset.reward = name;
  button.addEventListener("click", () => onSort(name));
  const about = scores.length ? `mean ${formatNumber(mean(scores))}, sd ${formatNumber(deviation(scores))}` : "no score";
  const scale = info?.range ? `range ${rangeText(info.range)}` : "bars over the observed range";
  return element("th", {scope: "col", "aria-sort": sorted ? (sort.descending ? "descending" : "ascending") : "none"},
    button, element("span", {class: "about"}, about), element("span", {class: "about"}, scale));
}

function textCell({completions, prompts}, index) {
  const number = element("span", {class: "number"}, String(index + 1));
  const prompt = prompts && plainText(prompts[index]);
  return element("th", {scope: "row"}, number, element("div", {},
    prompt && element("p", {class: "prompt"}, element("span", {class: "hidden"}, "Prompt: "), preview(prompt)),
    element("p", {class: "text"}, preview(plainText(completions[index])))));
}

/** Return a text; a long one as its beginning and a button that shows the rest. */
export function preview(text) {
  if (text.length <= PREVIEW_CHARS) return document.createTextNode(text);
  const shown = element("span", {}, `${text.slice(0, PREVIEW_CHARS)}…`);
  const button = element("button", {type: "button", class: "link"}, `show all ${count(text.length, "character")}`);
  button.addEventListener("click", () => { shown.textContent = text; button.remove(); });
  return element("span", {}, shown, " ", button);
}

function scoreCell(reward, index, withParts) {
  const {result, name, scale, decimals, truncated} = reward;
  const score = result.scores[index];
  const cell = element("td", {"data-label": name});
  if (score === null) {
    const {code, message} = result.errors[index];
    cell.append(element("p", {class: "missing"}, element("strong", {}, "no score "), element("code", {}, code)),
      element("p", {class: "reason"}, message));
  } else {
    cell.append(element("p", {class: "score"}, element("span", {class: "value"}, fixedNumber(score, decimals)),
      bar(score, scale)));
  }
  if (truncated.has(index)) {
    cell.append(element("span", {class: "tag", title: "The reward read only a part of this text."}, "cut off"));
  }
  if (withParts && result.details[index]) cell.append(...parts(result.details[index], reward, score));
  return cell;
}

function parts(detail, {scale, partScales: scales}, score) {
  const entries = Object.entries(detail);
  if (entries.length === 1 && entries[0][1] === score) return [];
  const isSum = entries.length > 1 && entries.every(([, part]) => typeof part === "number");
  const rows = entries.filter(([name]) => isSum || scales.has(name)).map(([name, part]) =>
    partRow(name, isSum ? part : part.score, isSum ? scale : scales.get(name), isSum ? null : part.made_of));
  const facts = entries.filter(([name]) => !isSum && !scales.has(name));
  return [
    rows.length > 0 && element("ul", {class: "parts"}, ...rows),
    facts.length > 0 && element("p", {class: "made-of"}, factList(facts)),
  ].filter(Boolean);
}

function partRow(name, score, scale, madeOf) {
  const known = typeof score === "number";
  const facts = Object.entries(madeOf ?? {}).filter(([, fact]) => fact !== score);
  return element("li", {},
    element("span", {class: "value"}, known ? formatNumber(score) : "none"),
    element("span", {class: "part-name"}, name),
    known ? bar(score, scale) : null,
    facts.length > 0 && element("span", {class: "made-of"}, factList(facts)));
}

/** Return the facts as one line of text; where it is wrapped, a value stays beside its name. */
function factList(facts) {
  return facts.map(([name, value]) => `${name}\u00a0${factText(value)}`).join(" · ");
}

function factText(value) {
  if (typeof value === "number") return formatNumber(value);
  if (typeof value !== "object" || value === null) return String(value);
  if (typeof value.score === "number") return formatNumber(value.score);
  return JSON.stringify(value);
}
