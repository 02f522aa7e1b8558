// @ts-check
/** The sign-in of the toy shop, which asks for no password. */

import { Problem, messages, MESSAGES } from "./cart.js";
import { nameOf } from "./drawer.js";
import { find, prepare, tell } from "./page.js";
import { language, word } from "./words.js";

/** @type {Record<string, string>} */
const NAMES = { ada: "Ada", grace: "Grace" };

export class Account {
  /** @param {import("./cart.js").ShopCart} cart @param {import("./drawer.js").Attempt} attempt */
  constructor(cart, attempt) {
    this.cart = cart;
    this.attempt = attempt;
    this.dialog = find("#sign-in", HTMLDialogElement);
    this.button = find("#account", HTMLButtonElement);
    prepare(this.dialog);
    this.button.addEventListener("click", () => this.dialog.showModal());
    for (const each of this.dialog.querySelectorAll("[data-user]")) {
      each.addEventListener("click", () => this.#signIn(each.getAttribute("data-user") ?? ""));
    }
    find("#sign-out", HTMLButtonElement).addEventListener("click", () => this.#signOut());
  }

  /** Show the user of the cart. */
  show() {
    const name = NAMES[this.cart.state.cart.user_id ?? ""];
    find("span", HTMLElement, this.button).textContent = name ?? word("signIn");
    find("#sign-in-title", HTMLElement).textContent = name ?? word("signIn");
    find("#sign-in-hint", HTMLElement).textContent = name ? word("signedInHint", { name }) : word("signInHint");
    find("#users", HTMLElement).hidden = name !== undefined;
    find("#signed-in", HTMLElement).hidden = name === undefined;
  }

  /** @param {string} user */
  async #signIn(user) {
    this.dialog.close();
    const body = JSON.stringify({ user });
    await fetch("/session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    await this.merge(word("signedIn", { name: NAMES[user] ?? user }));
  }

  /**
   * Move the guest's items into the user's cart. If they do not fit, let the shopper choose.
   *
   * @param {string} [done] the message @param {{ on_limit?: "refuse" | "clamp" }} [how]
   */
  async merge(done = "", how = {}) {
    await this.attempt(async () => {
      const { cart } = await this.cart.signIn(how).catch((error) => {
        if (!(error instanceof Problem) || error.status !== 409 || error.faults.length === 0) throw error;
        const action = () => void this.merge(done, { on_limit: "clamp" });
        tell(messages(error, MESSAGES[language()]).join(" "), { fault: true, label: word("moveWhatFits"), action });
        return { cart: null };
      });
      if (cart === null) return null;
      const cuts = (cart.adjustments ?? []).map((cut) => {
        const item = cart.items.find((each) => each.item_id === cut.item_id);
        return word("cut", { name: nameOf(item), reason: messages(cut, MESSAGES[language()]).join(" ") });
      });
      return [done, ...cuts].join(" ");
    });
  }

  async #signOut() {
    this.dialog.close();
    await fetch("/session", { method: "DELETE" });
    await this.attempt(() => this.cart.signOut(), word("signedOut"));
  }
}
