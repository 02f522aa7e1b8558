// @ts-check
/** What a visitor can do to the cart: lose the network, and change it on another device. It shows the requests. */

import { MESSAGES, Problem, messages, send } from "./cart.js";
import { itemOf, productOf } from "./catalogue.js";
import { find, make, tell } from "./page.js";
import { language, word } from "./words.js";

/** @typedef {import("./cart.js").Owner} Owner */
/** @typedef {import("./cart.js").ShopCart} ShopCart */
/** @typedef {import("./network.js").Message} Message */

const SHOWN = 12;
const HINTS = { works: "hintWorks", flaky: "hintFlaky", down: "hintDown" };

export class Workshop {
  /** @type {Message[]} */
  #messages = [];
  #attempts = 0;

  /**
   * @param {import("./network.js").Network} network @param {string} service
   * @param {ShopCart} cart @param {() => Promise<Owner | null>} owner
   */
  constructor(network, service, cart, owner) {
    this.network = network;
    network.onMessage = (message) => this.#log(message);
    find("#network", HTMLElement).addEventListener("change", (event) => {
      network.mode = /** @type {import("./network.js").Mode} */ (/** @type {HTMLInputElement} */ (event.target).value);
      this.show();
    });
    find("#elsewhere", HTMLElement).addEventListener("click", () => changeElsewhere(service, cart, owner));
  }

  /** Show the hint, and the last requests. */
  show() {
    find("#network-hint", HTMLElement).textContent = word(HINTS[this.network.mode]);
    find("#wire-empty", HTMLElement).hidden = this.#messages.length > 0;
    find("#wire", HTMLElement).hidden = this.#messages.length === 0;
    find("#wire", HTMLElement).replaceChildren(...this.#messages.map(row));
  }

  /** Return how often the change that needed the most attempts since the last call was sent. */
  attempts() {
    const attempts = this.#attempts;
    this.#attempts = 0;
    return attempts;
  }

  /** @param {Message} message */
  #log(message) {
    this.#messages = [message, ...this.#messages].slice(0, SHOWN);
    this.show();
    if (message.method === "GET" || message.isElsewhere) return;
    if (message.outcome === "request") tell(word("lostRequest"));
    else if (message.outcome === "answer") tell(word("lostAnswer"));
    else this.#attempts = Math.max(this.#attempts, message.attempt);
  }
}

/** @param {Message} message */
function row({ method, path, key, outcome, isReplayed, isElsewhere }) {
  const notes = [isReplayed ? word("wireReplayed") : "", isElsewhere ? word("wireElsewhere") : ""];
  const lost = outcome === "request" ? "wireRequest" : "wireAnswer";
  const isGood = typeof outcome === "number" && outcome < 400;
  const result = typeof outcome === "number" ? [String(outcome), ...notes].filter(Boolean).join(" · ") : word(lost);
  return make(
    "li",
    {},
    make("span", { className: "method", textContent: method }),
    make("span", { className: "path", textContent: shortened(path) }),
    make("span", { className: "key", textContent: key ? word("key", { start: key.slice(0, 4) }) : "" }),
    make("span", { className: isGood ? "outcome" : "outcome bad", textContent: result }),
  );
}

/** Return a path without the random part of its ids. @param {string} path */
function shortened(path) {
  return decodeURIComponent(path).replace(/(guest-\w{4})[\w-]+/, "$1…").replace(/(items\/.{10}).+/, "$1…");
}

/**
 * Add a candle as another device would, so that this page does not learn of it.
 *
 * @param {string} service @param {ShopCart} cart @param {() => Promise<Owner | null>} owner
 */
async function changeElsewhere(service, cart, owner) {
  const found = await owner();
  const candle = productOf("candle");
  if (found === null || candle === undefined) return tell(word("elsewhereFirst"));
  const currency = cart.state.cart.currency === "JPY" ? "JPY" : "EUR";
  const body = { product_id: candle.id, quantity: 1, ...itemOf(candle, { scent: "hay" }, currency) };
  const headers = { "X-Requested-With": "another device" };
  const url = `${service}/cart/${encodeURIComponent(found.user_id)}`;
  const answer = await send(url, { method: "POST", body, headers, token: found.token });
  if (answer.status === 200) return tell(word("elsewhereDone"));
  tell(messages(new Problem(answer, ""), MESSAGES[language()]).join(" "), { fault: true });
}
