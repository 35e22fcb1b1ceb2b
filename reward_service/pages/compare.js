// Two rewards over the same texts: a scatter plot, correlations, and the texts that they rank most differently.

import {bar, count, element, fixedNumber, formatNumber, plainText, svgElement} from "./dom.js";
import {preview} from "./results.js";
import {extent, pearson, ranks, spearman, ticks} from "./statistics.js";

const MARGIN = {top: 12, right: 16, bottom: 46, left: 58};
const MIN_TEXTS = 3; // two points always lie on a line
const MAX_DISAGREEMENTS = 5;

/** Return the comparison of rewards `x` and `y` as elements. `width` is the width of the plot in pixels. */
export function comparison({texts, results}, {x, y}, width) {
  const [xs, ys] = [results.rewards[x].scores, results.rewards[y].scores];
  const points = xs.map((score, index) => ({index, x: score, y: ys[index], text: plainText(texts.completions[index])}))
    .filter((point) => point.x !== null && point.y !== null);
  if (!points.length) return [element("p", {class: "note"}, "There is no text that both rewards have scored.")];
  const card = element("div", {class: "point", "aria-hidden": "true"}, hint());
  const plot = scatter(points, {x, y}, width, (point) => card.replaceChildren(...pointCard(point, {x, y})));
  plot.addEventListener("pointerleave", () => card.replaceChildren(hint()));
  return [figures(points, xs.length), plot, card, ...disagreements(points, {x, y})];
}

const hint = () => element("p", {class: "note"}, "Point at a dot to see its text; with the keyboard, use the arrow keys.");

function figures(points, all) {
  const [xs, ys] = [points.map((point) => point.x), points.map((point) => point.y)];
  const number = (value) => (points.length < MIN_TEXTS || value === null ? "–" : formatNumber(value));
  const left = all - points.length;
  const facts = [["Spearman", number(spearman(xs, ys))], ["Pearson", number(pearson(xs, ys))], ["n", String(points.length)]];
  const why = points.length < MIN_TEXTS ? `A correlation needs at least ${MIN_TEXTS} texts. `
    : pearson(xs, ys) === null ? "One reward gives all texts the same score: there is no correlation. " : "";
  const note = why + (left ? `${count(left, "text")} left out, for lack of a score.` : "");
  return element("div", {class: "figures"},
    element("dl", {}, ...facts.map(([term, fact]) => element("div", {}, element("dt", {}, term), element("dd", {}, fact)))),
    note && element("p", {class: "note"}, note));
}

function scatter(points, {x, y}, width, onPoint) {
  const height = Math.round(Math.min(440, Math.max(280, width * 0.62)));
  const scaleX = axis(points.map((point) => point.x), [MARGIN.left, width - MARGIN.right]);
  const scaleY = axis(points.map((point) => point.y), [height - MARGIN.bottom, MARGIN.top], 5);
  const label = `${count(points.length, "text")}: ${x} on the horizontal axis, ${y} on the vertical one`;
  const plot = svgElement("svg", {class: "scatter", viewBox: `0 0 ${width} ${height}`, width, height, role: "group",
    "aria-label": label}, ...grid(scaleX, scaleY, {x, y}, width, height));
  const ordered = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
  const dots = ordered.map((point, place) => svgElement("circle", {cx: scaleX.at(point.x), cy: scaleY.at(point.y), r: 5.5,
    role: "img", tabindex: place ? -1 : 0, "data-place": place, "aria-label": pointLabel(point, {x, y})}));
  plot.append(...dots);
  const show = (event) => {
    const place = event.target.getAttribute("data-place");
    if (place !== null) onPoint(ordered[place]);
  };
  plot.addEventListener("pointerover", show);
  plot.addEventListener("focusin", show);
  plot.addEventListener("keydown", (event) => moveFocus(event, dots));
  return plot;
}

/** One dot is in the tab order; the arrow keys, Home and End go on from there. */
function moveFocus(event, dots) {
  const place = Number(event.target.getAttribute("data-place"));
  const target = {ArrowRight: place + 1, ArrowUp: place + 1, ArrowLeft: place - 1, ArrowDown: place - 1, Home: 0,
    End: dots.length - 1}[event.key];
  if (target === undefined) return;
  event.preventDefault();
  const next = dots[Math.min(dots.length - 1, Math.max(0, target))];
  dots[place].setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
}

function axis(values, [from, to], wanted = 6) {
  const marks = ticks(extent(values), wanted);
  const [low, high] = [marks[0], marks.at(-1)];
  return {marks, at: (value) => from + ((value - low) / (high - low)) * (to - from)};
}

function grid(scaleX, scaleY, {x, y}, width, height) {
  const [left, right, top, bottom] = [MARGIN.left, width - MARGIN.right, MARGIN.top, height - MARGIN.bottom];
  const lines = [
    ...scaleX.marks.map((mark) => svgElement("line", {x1: scaleX.at(mark), x2: scaleX.at(mark), y1: top, y2: bottom,
      class: Math.abs(mark) < 1e-12 ? "zero" : null})),
    ...scaleY.marks.map((mark) => svgElement("line", {x1: left, x2: right, y1: scaleY.at(mark), y2: scaleY.at(mark),
      class: Math.abs(mark) < 1e-12 ? "zero" : null})),
  ];
  const labels = [
    ...scaleX.marks.map((mark) => svgElement("text", {x: scaleX.at(mark), y: bottom + 17, "text-anchor": "middle"},
      formatNumber(mark))),
    ...scaleY.marks.map((mark) => svgElement("text", {x: left - 8, y: scaleY.at(mark) + 4, "text-anchor": "end"},
      formatNumber(mark))),
    svgElement("text", {x: (left + right) / 2, y: height - 8, "text-anchor": "middle", class: "axis"}, x),
    svgElement("text", {x: 0, y: 0, transform: `translate(14 ${(top + bottom) / 2}) rotate(-90)`,
      "text-anchor": "middle", class: "axis"}, y),
  ];
  return [svgElement("g", {class: "grid"}, ...lines), svgElement("g", {class: "labels", "aria-hidden": "true"}, ...labels)];
}

function pointLabel({text, ...point}, {x, y}) {
  return `${text.slice(0, 200)}. ${x} ${formatNumber(point.x)}, ${y} ${formatNumber(point.y)}`;
}

function pointCard({text, index, ...point}, {x, y}) {
  return [
    element("p", {class: "text"}, element("span", {class: "number"}, String(index + 1)), text.slice(0, 600)),
    element("p", {class: "note"}, `${x} ${formatNumber(point.x)}, ${y} ${formatNumber(point.y)}`),
  ];
}

function disagreements(points, {x, y}) {
  if (points.length < MIN_TEXTS) return [];
  const [xRanks, yRanks] = [ranks(points.map((point) => point.x)), ranks(points.map((point) => point.y))];
  const apart = points.map((point, place) => ({...point, xRank: xRanks[place], yRank: yRanks[place]}))
    .filter(({xRank, yRank}) => xRank !== yRank)
    .sort((a, b) => Math.abs(b.xRank - b.yRank) - Math.abs(a.xRank - a.yRank)).slice(0, MAX_DISAGREEMENTS);
  if (!apart.length) return [element("p", {class: "note"}, "Both rewards rank these texts alike.")];
  const scales = [extent([0, ...points.map((point) => point.x)]), extent([0, ...points.map((point) => point.y)])];
  const row = ({text, index, ...point}) => element("tr", {},
    element("th", {scope: "row"}, element("span", {class: "number"}, String(index + 1)),
      element("div", {}, element("p", {class: "text"}, preview(text)))),
    ...[[x, point.x, point.xRank, scales[0]], [y, point.y, point.yRank, scales[1]]].map(([name, score, rank, scale]) =>
      element("td", {"data-label": name},
        element("p", {class: "score"}, element("span", {class: "value"}, fixedNumber(score, 3)), bar(score, scale)),
        element("p", {class: "made-of"}, `rank ${formatNumber(rank, 1)} of ${points.length}`))));
  const head = ["Text", x, y].map((title) => element("th", {scope: "col"}, title));
  return [element("h3", {}, "Ranked most differently ", element("span", {class: "note"}, "rank 1 is the lowest score")), element("table", {class: "scores"},
    element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...apart.map(row)))];
}
