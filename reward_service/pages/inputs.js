// Texts from what was pasted or from a file: {completions, prompts or null, columns}, as a request has them.

/** What is wrong with the pasted texts, as a sentence. */
export class InputError extends Error {}

/**
 * Read one text a line; blank lines are left out.
 *
 * A prompt on line i belongs to the text on line i; a single prompt belongs to every text.
 */
export function readLines(completions, prompts = "") {
  const [lines, questions] = [split(completions), split(prompts)];
  const shared = questions.filter((line) => line.trim()).length === 1 && questions[0].trim() !== "";
  if (prompts.trim() && !shared && questions.length !== lines.length) {
    throw new InputError(
      `There are ${questions.length} prompt lines for ${lines.length} text lines: give one prompt for all texts, or one a line.`,
    );
  }
  const kept = lines.map((line, index) => [line, shared ? questions[0] : questions[index]]).filter(([line]) => line.trim());
  return checked({
    completions: kept.map(([line]) => line),
    prompts: prompts.trim() ? kept.map(([, prompt]) => prompt) : null,
    columns: {},
  });
}

/**
 * Read JSON Lines: a string, a list of chat messages, or an object with `completion` and optionally `prompt`.
 *
 * Further fields of the objects become columns, null where a line lacks one.
 */
export function readJsonLines(text) {
  const rows = [];
  split(text).forEach((line, index) => {
    if (line.trim()) rows.push({...readRow(line, index + 1), line: index + 1});
  });
  const [without, having] = [rows.find((row) => row.prompt === null), rows.find((row) => row.prompt !== null)];
  if (without && having) {
    throw new InputError(`Line ${having.line} has a prompt, line ${without.line} has none: give all lines one, or none.`);
  }
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.columns)))];
  return checked({
    completions: rows.map((row) => row.completion),
    prompts: having ? rows.map((row) => row.prompt) : null,
    columns: Object.fromEntries(names.map((name) => [name, rows.map((row) => row.columns[name] ?? null)])),
  });
}

/** Return whether every line is a JSON object, string or list: a hint that plain lines are meant as JSON Lines. */
export function looksLikeJsonLines(text) {
  const lines = split(text).filter((line) => line.trim());
  return lines.length > 0 && lines.every((line) => {
    try {
      return typeof JSON.parse(line) === "object" && JSON.parse(line) !== null;
    } catch {
      return false;
    }
  });
}

function readRow(line, number) {
  let value;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new InputError(`Line ${number} is not JSON: ${error.message}.`);
  }
  if (isText(value)) return {completion: value, prompt: null, columns: {}};
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new InputError(`Line ${number} is neither a string, nor a chat, nor an object with a completion.`);
  }
  const {completion, prompt = null, ...columns} = value;
  if (!isText(completion)) {
    throw new InputError(`Line ${number} has no "completion" that is a string or a chat. Its fields: ${
      Object.keys(value).join(", ") || "none"}.`);
  }
  if (prompt !== null && !isText(prompt)) throw new InputError(`The prompt of line ${number} is neither a string nor a chat.`);
  return {completion, prompt, columns};
}

function isText(value) {
  const isMessage = (item) => typeof item === "object" && item !== null && typeof item.role === "string";
  return typeof value === "string" || (Array.isArray(value) && value.length > 0 && value.every(isMessage));
}

function checked(texts) {
  if (!texts.completions.length) throw new InputError("There is no text to score. Paste one text a line, or choose a file.");
  return texts;
}

function split(text) {
  return text.replace(/\r?\n$/, "").split(/\r?\n/);
}
