// @ts-check
/** The page of the toy shop: joins the cart, its views and the network that can be lost. */

import { Account } from "./account.js";
import { MESSAGES, Problem, ShopCart, messages } from "./cart.js";
import { itemOf } from "./catalogue.js";
import { order } from "./checkout.js";
import { Drawer } from "./drawer.js";
import { Network } from "./network.js";
import { find, prepare, tell } from "./page.js";
import { showShelf } from "./shelf.js";
import { language, translate, useLanguage, word } from "./words.js";
import { Workshop } from "./workshop.js";

const { service } = await (await fetch("/settings.json")).json();
const network = new Network(service);
const user = async () => (await fetch("/cart-token")).json();
const cart = new ShopCart({ base: service, user, pause: 400 }); // long enough to be seen

const dialog = find("#drawer", HTMLDialogElement);
const drawer = new Drawer(cart, attempt);
const account = new Account(cart, attempt);
const owner = async () => (await user()) ?? JSON.parse(localStorage.getItem("cartsvc.guest") ?? "null");
const workshop = new Workshop(network, service, cart, owner);

/** @type {Map<string, Record<string, string>>} */
const chosen = new Map();
const languages = find("#language", HTMLSelectElement);
const currencies = find("#currency", HTMLSelectElement);
const currency = () => /** @type {import("./catalogue.js").Currency} */ (currencies.value);

let running = 0;

/**
 * Make a change, and show what came of it: the message that it returns, or `done`; else why it failed.
 *
 * @param {(key?: string) => Promise<unknown>} act `null`: it has shown its own message
 * @param {string} [done] @param {string} [key] of an attempt whose outcome is unknown
 */
async function attempt(act, done = "", key = undefined) {
  tell("");
  document.body.classList.toggle("busy", ++running > 0);
  try {
    const result = await act(key);
    const attempts = workshop.attempts();
    const once = attempts > 1 ? word("once", { count: attempts }) : "";
    if (result !== null) tell([typeof result === "string" ? result : done, once].join(" ").trim());
  } catch (error) {
    const isUnknown = error instanceof Problem && error.outcomeUnknown;
    const again = isUnknown ? { label: word("tryAgain"), action: () => void attempt(act, done, error.key) } : {};
    tell(messages(error, MESSAGES[language()]).join(" "), { fault: true, ...again });
  } finally {
    document.body.classList.toggle("busy", --running > 0);
  }
}

function showProducts() {
  showShelf(find("#shelf", HTMLElement), chosen, currency(), (product, options) => {
    const metadata = { title: product.name[language()] };
    const item = { product_id: product.id, quantity: 1, ...itemOf(product, options, currency()), metadata };
    attempt((key) => cart.add(item, key), word("added", { name: product.name[language()] }));
  });
}

function showCart() {
  const count = cart.state.cart.total_quantity;
  const badge = find("#count", HTMLElement);
  badge.textContent = count === 0 ? "" : String(count);
  badge.hidden = count === 0;
  drawer.show();
  account.show();
}

function showAll() {
  translate();
  showProducts();
  drawer.translate();
  workshop.show();
  showCart();
}

languages.value = language();
languages.addEventListener("change", () => {
  useLanguage(languages.value === "de" ? "de" : "en");
  showAll();
});
currencies.addEventListener("change", showProducts);
find("#open-cart", HTMLElement).addEventListener("click", () => {
  tell("");
  dialog.showModal();
});
prepare(dialog);
cart.subscribe(showCart);
find("#order", HTMLElement).addEventListener("click", () => attempt(() => order(cart, owner)));
showAll();
await account.merge();
