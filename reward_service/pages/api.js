// The service's HTTP API: one sentence for each failure, waits where it asks to wait, long work in chunks.

export const scoreUrl = new URL("v1/score", document.baseURI).href;
const rewardsUrl = new URL("v1/rewards", document.baseURI).href;

/** How many texts a request holds at most: few enough to show progress and to leave room for other callers. */
const CHUNK_TEXTS = 64;
const MAX_ATTEMPTS = 5;
const ENVELOPE_BYTES = 4096; // of a request besides its texts: field names, brackets, names of rewards

/** A failure that the user can read; `status` is 0 where the service could not be reached. */
export class ServiceError extends Error {
  constructor(message, {status = 0, retryAfterS = null} = {}) {
    super(message);
    Object.assign(this, {status, retryAfterS});
  }
}

/** Return what `GET /v1/rewards` says. Waits while the models are loading. */
export function fetchInfo(key, {signal, onWait}) {
  return withRetries(() => request(rewardsUrl, {key, signal}), {signal, onWait, maxAttempts: Infinity});
}

/**
 * Score texts in chunks that keep to the service's limits, one request at a time.
 *
 * `onProgress(results, scored)` is called after each chunk with all results so far; `onWait(sentence)` before a wait.
 * Returns {rewards, queueMs, computeMs}, `rewards` as on the wire. Throws ServiceError, or AbortError once stopped.
 */
export async function score(texts, {rewards, limits, key, signal, onProgress, onWait}) {
  const results = {rewards: {}, queueMs: 0, computeMs: 0};
  for (const [start, end] of chunks(sizesOf(texts), limits)) {
    const body = {...slice(texts, start, end), rewards, details: true};
    const response = await withRetries(
      () => request(scoreUrl, {key, signal, body}), {signal, onWait, maxAttempts: MAX_ATTEMPTS},
    );
    append(results, response, start);
    onProgress(results, end);
  }
  return results;
}

/** Return [start, end) of each chunk: greedy, within both limits. A text over the limit travels alone. */
export function chunks(sizes, {max_request_texts: maxTexts, max_body_bytes: maxBytes}) {
  const ranges = [];
  let start = 0, bytes = ENVELOPE_BYTES;
  sizes.forEach((size, index) => {
    const full = index - start >= Math.min(maxTexts, CHUNK_TEXTS) || bytes + size > maxBytes;
    if (full && index > start) {
      ranges.push([start, index]);
      [start, bytes] = [index, ENVELOPE_BYTES];
    }
    bytes += size;
  });
  return sizes.length ? [...ranges, [start, sizes.length]] : ranges;
}

function sizesOf({completions, prompts, columns}) {
  const encoder = new TextEncoder();
  const bytes = (value) => encoder.encode(JSON.stringify(value) ?? "null").length + 1;
  const lists = [completions, ...(prompts ? [prompts] : []), ...Object.values(columns)];
  return completions.map((_, index) => lists.reduce((sum, list) => sum + bytes(list[index]), 0));
}

/** Return the fields of a request for some of the texts; prompts and columns are left out where there are none. */
export function slice({completions, prompts, columns}, start, end) {
  const part = {completions: completions.slice(start, end)};
  if (prompts) part.prompts = prompts.slice(start, end);
  const names = Object.keys(columns);
  if (names.length) part.columns = Object.fromEntries(names.map((name) => [name, columns[name].slice(start, end)]));
  return part;
}

function append(results, response, start) {
  for (const [name, part] of Object.entries(response.rewards)) {
    const whole = results.rewards[name] ??= {scores: [], revision: part.revision, errors: {}, truncated: [], details: []};
    if (whole.revision !== part.revision) {
      throw new ServiceError(`The reward ${name} was reloaded while its texts were scored. Score them again.`);
    }
    whole.scores.push(...part.scores);
    whole.details.push(...(part.details ?? part.scores.map(() => null)));
    whole.truncated.push(...part.truncated.map((index) => index + start));
    for (const [index, error] of Object.entries(part.errors)) whole.errors[Number(index) + start] = error;
  }
  results.queueMs += response.timing.queue_ms;
  results.computeMs += response.timing.compute_ms;
}

async function withRetries(send, {signal, onWait, maxAttempts}) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await send();
    } catch (error) {
      if (!(error instanceof ServiceError) || error.retryAfterS === null || attempt === maxAttempts) throw error;
      onWait(`${error.message} Trying again in ${error.retryAfterS} s.`);
      await pause(error.retryAfterS, signal);
    }
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, {once: true});
  });
}

async function request(url, {key, signal, body}) {
  const headers = {Accept: "application/json"};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const options = {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store"};
  let response, content;
  try {
    response = await fetch(url, options);
    content = await response.json();
  } catch (error) {
    if (signal.aborted) throw error;
    throw response ? new ServiceError(`The answer of the service cannot be read (status ${response.status}).`, response)
      : new ServiceError("The service cannot be reached. Is it running?");
  }
  if (!response.ok) throw failure(response, content, Boolean(key));
  return content;
}

function failure(response, problem, hasKey) {
  const retryAfterS = problem.retryable ? Number(response.headers.get("Retry-After")) || 1 : null;
  return new ServiceError(sentence(response.status, problem, hasKey), {status: response.status, retryAfterS});
}

function sentence(status, problem, hasKey) {
  const detail = ended(problem.detail ?? `status ${status}`);
  if (status === 401) return hasKey ? "The service does not accept this API key." : "This service needs an API key.";
  if (status === 422) return `The request is invalid: ${detail}`;
  if (status === 429) return `The service is overloaded: ${detail}`;
  if (status === 503) return `The service is not ready: ${detail}`;
  return `${problem.title ?? "Failed"}: ${detail}`;
}

function ended(text) {
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
