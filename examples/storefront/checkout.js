// @ts-check
/** The order of the toy shop: its back end takes the cart that the shopper saw, or nothing. */

import { Problem, send } from "./cart.js";
import { word } from "./words.js";

/** @type {string | null} */
let pending = null; // the number of an order whose outcome is unknown

/**
 * Order the cart that is shown. A second try after a lost response has the same number, so the cart is ordered once.
 *
 * @param {import("./cart.js").ShopCart} cart @param {() => Promise<import("./cart.js").Owner | null>} owner
 * @returns {Promise<string>} the message for the shopper
 * @throws {Problem} if the cart was not ordered
 */
export async function order(cart, owner) {
  const found = await owner();
  pending ??= String(Math.floor(10_000 + Math.random() * 90_000));
  const number = pending;
  const body = { user_id: found?.user_id, etag: cart.state.etag };
  const answer = await send("/orders", { method: "POST", body, token: found?.token, key: `order-${number}` });
  const problem = answer.status === 204 ? null : new Problem(answer, "");
  if (!problem?.outcomeUnknown) pending = null;
  await cart.load();
  if (problem?.slug === "precondition-failed") return word("orderChanged");
  if (problem !== null) throw problem;
  return word("ordered", { number });
}
