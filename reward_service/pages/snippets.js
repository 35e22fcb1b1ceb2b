// The request as a curl command and as Python. The API key is only named: it comes from the environment.

/** How many texts a snippet holds at most. */
export const SNIPPET_TEXTS = 20;

const KEY_VARIABLE = "REWARD_API_KEY";

/** Return a curl command for a POSIX shell that sends this request body. */
export function curlCommand(url, body, needsKey) {
  const lines = ["-H 'Content-Type: application/json'"];
  if (needsKey) lines.push(`-H "Authorization: Bearer $${KEY_VARIABLE}"`);
  lines.push(`--data-binary ${shellQuoted(JSON.stringify(body, null, 1))}`);
  return [`curl ${shellQuoted(url)}`, ...lines].join(" \\\n  ");
}

/** Return a Python program that makes this request with `RewardClient`. */
export function pythonProgram(url, body, needsKey) {
  const service = url.replace(/\/v1\/score$/, "");
  const key = needsKey ? `, api_key=os.environ["${KEY_VARIABLE}"]` : "";
  const parameters = Object.entries(body).map(([name, value]) => `    ${name}=${python(value, 1)},\n`);
  return [
    needsKey ? "import os\n" : "",
    "from remote_rewards import RewardClient\n",
    `client = RewardClient(${python(service)}${key})`,
    `response = client.score(\n${parameters.join("")})`,
    "for name, reward in response.rewards.items():\n    print(name, reward.revision, reward.scores)\n",
  ].filter(Boolean).join("\n");
}

function shellQuoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return a JSON value as a Python literal: JSON's escapes are Python's, its three words are not. */
function python(value, depth = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  const items = Array.isArray(value) ? value.map((item) => python(item, depth + 1))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item, depth + 1)}`);
  const inline = open + items.join(", ") + close;
  if (inline.length <= 60 && !inline.includes("\n")) return inline;
  const indent = "    ".repeat(depth + 1);
  return `${open}\n${items.map((item) => `${indent}${item},\n`).join("")}${"    ".repeat(depth)}${close}`;
}
