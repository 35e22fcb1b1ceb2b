// The list of rewards to choose from, with what `GET /v1/rewards` says of each.

import {element, formatNumber} from "./dom.js";

/** Fill the list with one checkbox for each reward; those named in `chosen` are checked. */
export function showRewards(list, rewards, chosen) {
  list.replaceChildren(...rewards.map((reward) => card(reward, chosen.includes(reward.name))));
}

/** Return the names of the checked rewards, in the order of the list. */
export function chosenRewards(list) {
  return [...list.querySelectorAll("input:checked")].map((box) => box.value);
}

/** Return a range as text. */
export function rangeText(range) {
  return range ? `${formatNumber(range[0])} to ${formatNumber(range[1])}` : "not known";
}

function card(reward, checked) {
  const box = element("input", {type: "checkbox", name: "reward", value: reward.name, checked});
  const kind = element("span", {class: "badge"}, reward.kind);
  return element("li", {},
    element("label", {}, box, element("span", {class: "name"}, reward.name), kind),
    element("p", {}, ...withCode(reward.description)),
    element("details", {}, element("summary", {}, "Facts ", element("span", {class: "hidden"}, `of ${reward.name}`)),
      facts(reward)),
  );
}

/** Return the text with what stands in `backticks` as code. */
function withCode(text) {
  return text.split(/`([^`]+)`/).map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

function facts(reward) {
  const rows = [
    ["Range", rangeText(reward.range)],
    ["Reads", reward.max_tokens ? `at most ${reward.max_tokens} tokens of a text` : "the whole text"],
    reward.engine && ["Engine", engineText(reward.engine)],
    reward.parts.length > 0 && ["Parts", reward.parts.join(", ")],
    reward.columns?.length > 0 && ["Columns", reward.columns.join(", ")],
    ["Revision", reward.revision],
  ];
  return element("dl", {}, ...rows.filter(Boolean).flatMap(
    ([term, fact]) => [element("dt", {}, term), element("dd", {}, fact)],
  ));
}

function engineText({backend, dtype, deterministic, batched, texts_per_s: speed}) {
  const extras = [
    speed && `${Math.round(speed)} texts/s`, deterministic && "deterministic", batched === false && "one text at a time",
  ];
  return [`${backend}, ${dtype}`, ...extras].filter(Boolean).join(", ");
}
