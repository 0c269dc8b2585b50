/** Talk with the server. Whatever goes wrong becomes one `ApiError` with problems to show. */

import { t } from "./texts.js";

/** What the server refused, or that it cannot be reached. */
export class ApiError extends Error {
  /**
   * @param {number} status of HTTP; 0: no answer
   * @param {{what: string, where?: string, hint?: string}[]} problems
   */
  constructor(status, problems) {
    super(problems.map((problem) => problem.what).join("; "));
    this.status = status;
    this.problems = problems;
  }
}

/**
 * Ask the server for something.
 * @param {string} method
 * @param {string} path below `/api`
 * @param {any} [body] sent as JSON
 * @param {{signal?: AbortSignal, keepalive?: boolean}} [how]
 * @returns {Promise<any>} the answer's JSON; null if it is empty
 */
export async function call(method, path, body, how = {}) {
  const request = { method, headers: { Accept: "application/json" }, credentials: "same-origin", ...how };
  if (method !== "GET") {
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body ?? {});
  }
  return answer(() => fetch(`/api${path}`, request));
}

/**
 * Send a file's bytes.
 * @param {string} path below `/api`
 * @param {Blob} blob
 * @returns {Promise<any>} the answer's JSON
 */
export async function put(path, blob) {
  const headers = { "Content-Type": "application/octet-stream", Accept: "application/json" };
  return answer(() =>
    fetch(`/api${path}`, { method: "PUT", headers, body: blob, credentials: "same-origin" }),
  );
}

async function answer(ask) {
  let response;
  try {
    response = await ask();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, [{ what: t("away.what"), hint: t("away.hint") }]);
  }
  const value = await read(response);
  if (response.ok) return value;
  throw new ApiError(response.status, problemsOf(response, value));
}

async function read(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}

function problemsOf(response, value) {
  if (Array.isArray(value?.problems) && value.problems.length) return value.problems;
  if (response.status === 401 || response.status === 403)
    return [{ what: t("stranger.what"), hint: t("stranger.hint") }];
  return [{ what: t("answer.what", { status: response.status }), where: new URL(response.url).pathname }];
}
