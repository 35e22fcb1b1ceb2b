// Elements and numbers on the page. Strings are only ever inserted as text.

const SVG = "http://www.w3.org/2000/svg";

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Return a new HTML element. A string child becomes text; null and false children are left out. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Return a new SVG element. */
export function svgElement(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== false));
  return node;
}

/** Return a number with so many decimals, fewer where it is large; one that would become zero with an exponent. */
export function fixedNumber(value, decimals) {
  const wholeDigits = Math.max(1, Math.floor(Math.log10(Math.abs(value) || 1)) + 1);
  const rounded = value.toFixed(Math.max(0, decimals + 1 - wholeDigits));
  return Number(rounded) === 0 && value !== 0 ? value.toExponential(1) : rounded;
}

/** Return a number with at most so many decimals, without trailing zeros. */
export function formatNumber(value, decimals = 3) {
  return String(Number(fixedNumber(value, decimals)) || 0);
}

/** Return `1 text`, `2,000 texts`. */
export function count(n, noun) {
  return `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
}

/** Return a completion or a prompt as plain text; each message of a chat begins with its role. */
export function plainText(text) {
  if (typeof text === "string") return text;
  return text.map((message) => `${message.role}: ${contentText(message.content)}`).join("\n");
}

function contentText(content) {
  if (content === null || content === undefined) return "";
  if (typeof content === "string") return content;
  return content.map((part) => part.text ?? "").join("");
}

/** Return a bar from zero to `value`, on a scale from `low` to `high`; zero is marked where it lies inside. */
export function bar(value, [low, high]) {
  const share = (x) => Math.min(1, Math.max(0, (x - low) / (high - low || 1)));
  const [zero, end] = [share(0), share(value)];
  const fill = element("span", {class: value < 0 ? "fill negative" : "fill"});
  fill.style.left = `${100 * Math.min(zero, end)}%`;
  fill.style.width = `${100 * Math.abs(end - zero)}%`;
  const track = element("span", {class: "bar", "aria-hidden": "true"}, fill);
  if (zero > 0 && zero < 1) {
    const mark = element("span", {class: "zero"});
    mark.style.left = `${100 * zero}%`;
    track.append(mark);
  }
  return track;
}
