// @ts-check
/** The drawer with the cart: one line an item, which is changed in its place. */

import { formatMoney } from "./cart.js";
import { itemOf, productOf } from "./catalogue.js";
import { find, fromTemplate, make } from "./page.js";
import { pictureOf } from "./pictures.js";
import { language, word } from "./words.js";

/** @typedef {import("./cart.js").Item} Item */
/** @typedef {import("./cart.js").State} State */
/** @typedef {(act: () => Promise<unknown>, done?: string) => Promise<void>} Attempt shows what came of a change */

export class Drawer {
  /** @type {Map<string, HTMLElement>} */
  #lines = new Map();
  /** @type {Map<string, number>} */
  #wanted = new Map(); // quantities that the shopper wants, and the service has not confirmed

  /** @param {import("./cart.js").ShopCart} cart @param {Attempt} attempt */
  constructor(cart, attempt) {
    this.cart = cart;
    this.attempt = attempt;
    this.list = find("#lines", HTMLElement);
    this.note = find("#note", HTMLTextAreaElement);
    this.note.addEventListener("change", () => {
      const { note: _, ...metadata } = cart.state.cart.metadata;
      if (this.note.value !== "") metadata.note = this.note.value;
      attempt(() => cart.setMetadata(metadata), word("saved"));
    });
  }

  /** Show the state of the cart. Focus and what is being typed stay where they are. */
  show() {
    const { cart } = this.cart.state;
    const focus = this.#focused();
    for (const [itemId, line] of this.#lines) {
      if (cart.items.some((item) => item.item_id === itemId)) continue;
      line.remove();
      this.#lines.delete(itemId);
    }
    for (const [index, item] of cart.items.entries()) {
      const line = this.#lines.get(item.item_id) ?? this.#newLine(item.item_id);
      this.#lines.set(item.item_id, line);
      this.#fill(line, item);
      if (this.list.children[index] !== line) this.list.insertBefore(line, this.list.children[index] ?? null);
    }
    this.#refocus(focus);
    if (document.activeElement !== this.note) this.note.value = cart.metadata.note ?? "";
    find("#subtotal", HTMLElement).textContent = formatMoney(cart.subtotal, cart.currency, language()) || "–";
    for (const id of ["foot", "lines"]) find(`#${id}`, HTMLElement).hidden = cart.items.length === 0;
    find("#empty", HTMLElement).hidden = cart.items.length > 0;
  }

  /** Show all lines again, after a change of the language. */
  translate() {
    this.#lines.clear();
    this.list.replaceChildren();
    this.show();
  }

  /** @param {string} itemId */
  #newLine(itemId) {
    const line = fromTemplate("line");
    const item = () => this.cart.state.cart.items.find((each) => each.item_id === itemId);
    for (const [part, step] of /** @type {const} */ ([["less", -1], ["more", 1]])) {
      find(`[data-part=${part}]`, HTMLElement, line).addEventListener("click", () => this.#step(item(), step));
    }
    find("[data-part=remove]", HTMLElement, line).addEventListener("click", () => {
      const name = nameOf(item());
      this.attempt(() => this.cart.remove(itemId), word("removed", { name }));
    });
    const engraving = find("[data-part=engraving]", HTMLInputElement, line);
    engraving.addEventListener("change", () => this.#engrave(itemId, engraving.value));
    return line;
  }

  /** @param {HTMLElement} line @param {Item} item */
  #fill(line, item) {
    const name = nameOf(item);
    const product = productOf(item.product_id);
    const quantity = this.#wanted.get(item.item_id) ?? item.quantity;
    find("h3", HTMLElement, line).textContent = name;
    find("img", HTMLImageElement, line).src = pictureOf(item.product_id, item.options);
    find(".price", HTMLElement, line).textContent = formatMoney(item.line_total, item.currency, language()) || "–";
    const stepper = find(".stepper", HTMLElement, line);
    stepper.ariaLabel = word("quantity", { name });
    find("output", HTMLElement, stepper).textContent = String(quantity);
    find("[data-part=less]", HTMLElement, line).ariaLabel = word("less", { name });
    find("[data-part=more]", HTMLElement, line).ariaLabel = word("more", { name });
    find("[data-part=remove]", HTMLElement, line).replaceChildren(
      word("remove"),
      make("span", { className: "unseen", textContent: `: ${name}` }),
    );
    if (line.dataset.filled === undefined) find(".options", HTMLElement, line).append(...this.#selects(item));
    line.dataset.filled = "";
    const field = find(".engraving", HTMLElement, line);
    field.hidden = !product?.engraved;
    const input = find("input", HTMLInputElement, field);
    const label = find("label", HTMLLabelElement, field);
    label.textContent = word("engraving");
    label.htmlFor = input.id = `engraving-${item.item_id}`;
    if (document.activeElement !== input) input.value = item.metadata.engraving ?? "";
  }

  /** Return a select for each option, which turns the item into another variant. @param {Item} item */
  #selects(item) {
    const product = productOf(item.product_id);
    return (product?.options ?? []).map((option) => {
      const choices = option.choices.map(({ value, text }) => make("option", { value, textContent: text[language()] }));
      const select = make("select", { ariaLabel: `${option.text[language()]}, ${nameOf(item)}` }, ...choices);
      select.value = item.options[option.name] ?? "";
      select.dataset.part = `option-${option.name}`;
      select.addEventListener("change", async () => {
        const options = { ...item.options, [option.name]: select.value };
        const currency = /** @type {import("./catalogue.js").Currency} */ (item.currency ?? "EUR");
        const changes = product && itemOf(product, options, currency);
        await this.attempt(() => this.cart.change(item.item_id, changes ?? { options }));
        if (select.isConnected) select.value = item.options[option.name] ?? ""; // the change was rejected
      });
      return select;
    });
  }

  /** @param {Item | undefined} item @param {number} step */
  async #step(item, step) {
    if (item === undefined) return;
    const quantity = Math.max(0, (this.#wanted.get(item.item_id) ?? item.quantity) + step);
    this.#wanted.set(item.item_id, quantity);
    this.show();
    await this.attempt(() => this.cart.setQuantity(item.item_id, quantity));
    if (this.#wanted.get(item.item_id) === quantity) this.#wanted.delete(item.item_id);
    this.show();
  }

  /**
   * Write the engraving into the cart that the shopper sees. If the cart has changed since (412), into the newer one.
   *
   * @param {string} itemId @param {string} engraving
   */
  #engrave(itemId, engraving) {
    let tries = 0;
    /** @param {Item} item */
    const engraved = (item) => {
      const { engraving: _, ...metadata } = item.metadata;
      return { ...item, metadata: engraving === "" ? metadata : { ...metadata, engraving } };
    };
    const change = (/** @type {Item[]} */ items) => {
      tries += 1;
      return items.map((item) => (item.item_id === itemId ? engraved(item) : item));
    };
    this.attempt(async () => {
      await this.cart.edit(change);
      return word(tries > 1 ? "rebased" : "saved");
    });
  }

  /** @returns {{ index: number, part: string } | null} the part of a line that has the focus */
  #focused() {
    const active = document.activeElement;
    const line = active?.closest(".line");
    if (!(active instanceof HTMLElement) || !line || !this.list.contains(line)) return null;
    return { index: [...this.list.children].indexOf(line), part: active.dataset.part ?? "" };
  }

  /** Focus the same part of the line that is now in this place. @param {{ index: number, part: string } | null} focus */
  #refocus(focus) {
    if (focus === null || this.list.contains(document.activeElement)) return;
    const line = this.list.children[Math.min(focus.index, this.list.children.length - 1)];
    const part = line?.querySelector(`[data-part="${focus.part}"]`) ?? document.querySelector("#drawer [data-close]");
    if (part instanceof HTMLElement) part.focus();
  }
}

/** Return the name of an item: from the catalogue, else as it was when it was added. @param {Item | undefined} item */
export function nameOf(item) {
  return productOf(item?.product_id ?? "")?.name[language()] ?? item?.metadata.title ?? item?.product_id ?? "";
}
