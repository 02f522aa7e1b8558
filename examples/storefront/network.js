// @ts-check
/**
 * A network between the page and the cart service that can be lost. It wraps `fetch`, so that cart.js stays as it is.
 *
 * @typedef {"works" | "flaky" | "down"} Mode
 * @typedef {{ method: string, path: string, key: string | null, attempt: number, isElsewhere: boolean,
 *   outcome: "request" | "answer" | number, isReplayed: boolean }} Message `outcome`: what was lost, or the status
 */

const PAUSE = 350; // milliseconds, so that a loss can be seen

export class Network {
  /** @type {Mode} */
  mode = "works";
  /** @type {(message: Message) => void} */
  onMessage = () => {};
  /** @type {Map<string, number>} */
  #attempts = new Map();

  /** @param {string} service the URL whose requests may be lost */
  constructor(service) {
    const plain = globalThis.fetch.bind(globalThis);
    globalThis.fetch = (input, init) => {
      const url = String(input);
      if (!url.startsWith(service)) return plain(input, init);
      return this.#pass(url.slice(service.length), init ?? {}, () => plain(input, init));
    };
  }

  /**
   * @param {string} path @param {RequestInit} request @param {() => Promise<Response>} send
   * @returns {Promise<Response>}
   */
  async #pass(path, request, send) {
    const method = request.method ?? "GET";
    const headers = new Headers(request.headers);
    const key = headers.get("Idempotency-Key");
    const attempt = key === null ? 1 : (this.#attempts.get(key) ?? 0) + 1;
    if (key !== null) this.#attempts.set(key, attempt);
    const isElsewhere = headers.get("X-Requested-With") === "another device";
    const message = { method, path, key, attempt, isElsewhere, isReplayed: false };
    const lost = isElsewhere ? null : this.#loss(method, attempt);
    if (lost === "request") return this.#lose({ ...message, outcome: "request" });
    const response = await send().catch((error) => {
      this.onMessage({ ...message, outcome: "answer" });
      throw error;
    });
    if (lost === "answer") return this.#lose({ ...message, outcome: "answer" });
    const isReplayed = response.headers.get("Idempotency-Replayed") === "true";
    this.onMessage({ ...message, outcome: response.status, isReplayed });
    return response;
  }

  /** @param {string} method @param {number} attempt @returns {"request" | "answer" | null} */
  #loss(method, attempt) {
    if (this.mode === "down") return "request";
    if (this.mode === "works" || method === "GET") return null;
    return attempt === 1 ? "request" : attempt === 2 ? "answer" : null;
  }

  /** @param {Message} message @returns {Promise<never>} */
  async #lose(message) {
    await new Promise((done) => setTimeout(done, PAUSE));
    this.onMessage(message);
    throw new TypeError("The network is lost.");
  }
}
