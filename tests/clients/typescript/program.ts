// Uses every operation of the API, with the types of openapi-typescript and the calls of openapi-fetch.
// Arguments: the URL of the server, and with authentication the token of alice. Prints the operations that worked.
import assert from "node:assert/strict";
import createClient from "openapi-fetch";
import { messageOfProblem } from "./messages.js";
import type { components, operations, paths } from "./schema.js";

type Cart = components["schemas"]["Cart"];

const [baseUrl, aliceToken] = process.argv.slice(2);
assert(baseUrl);
const worked: (keyof operations)[] = [];
const headers = (token?: string | null) => (token ? { Authorization: `Bearer ${token}` } : {});
const api = createClient<paths>({ baseUrl, headers: headers(aliceToken) });
const key = () => ({ "Idempotency-Key": crypto.randomUUID() });
const path = { user_id: "alice" };

function cartOf(operation: keyof operations, answer: { data?: Cart; error?: unknown; response: Response }): Cart {
  assert(answer.data, `${operation}: ${answer.response.status} ${JSON.stringify(answer.error)}`);
  worked.push(operation);
  return answer.data;
}

const added = await api.POST("/cart/{user_id}", {
  params: { path, header: key() },
  body: { product_id: "mug", quantity: 2, unit_price: 10_000_000_000, currency: "EUR", metadata: { title: "Mug" } },
});
assert.equal(cartOf("addItem", added).subtotal, 20_000_000_000);

const several = await api.POST("/cart/{user_id}/items", {
  params: { path, header: key() },
  body: { items: [{ product_id: "shirt", quantity: 1, options: { size: "M" }, unit_price: 1999 }], currency: "EUR" },
});
const shirt = cartOf("addItems", several).items[1];
assert(shirt);
assert.equal(shirt.options["size"], "M");

const noted = await api.PATCH("/cart/{user_id}", { params: { path }, body: { metadata: { gift_note: "For you" } } });
assert.equal(cartOf("updateCart", noted).metadata["gift_note"], "For you");

const got = await api.GET("/cart/{user_id}", { params: { path } });
const cart = cartOf("getCart", got);
const etag = got.response.headers.get("ETag");
assert(etag);
const unchanged = await api.GET("/cart/{user_id}", { params: { path, header: { "If-None-Match": etag } } });
assert.equal(unchanged.response.status, 304);

const replaced = await api.PUT("/cart/{user_id}", {
  params: { path, header: { "If-Match": etag } },
  body: { ...cart, metadata: {} },
});
assert.deepEqual(cartOf("replaceCart", replaced).metadata, {});

const stale = await api.PUT("/cart/{user_id}", { params: { path, header: { "If-Match": etag } }, body: { items: [] } });
assert(stale.error?.type === "urn:cartsvc:problem:precondition-failed");
assert.equal(stale.error.cart.item_count, 2);

const itemPath = { ...path, item_id: shirt.item_id };
const item = await api.GET("/cart/{user_id}/items/{item_id}", { params: { path: itemPath } });
assert.equal(item.data?.line_total, 1999);
worked.push("getItem");

const changed = await api.PATCH("/cart/{user_id}/items/{item_id}", {
  params: { path: itemPath, header: key() },
  body: { options: { size: "L" } },
});
const large = cartOf("updateItem", changed).items[1];
assert(large);

const both = await api.PATCH("/cart/{user_id}/items", {
  params: { path, header: key() },
  body: { items: [{ item_id: large.item_id, quantity: 3 }, { item_id: "mug", quantity: 1 }] },
});
assert.equal(cartOf("updateItems", both).total_quantity, 4);

const removed = await api.DELETE("/cart/{user_id}/items/{item_id}", {
  params: { path: { ...path, item_id: large.item_id }, header: key() },
});
assert.equal(cartOf("deleteItem", removed).item_count, 1);

const refused = await api.POST("/cart/{user_id}", {
  params: { path },
  body: { product_id: "mug", quantity: 999, unit_price: 1, currency: "EUR" },
});
assert(refused.error);
assert.equal(messageOfProblem(refused.error), "At most 999 of one item.");

const created = await api.POST("/cart", { headers: { Authorization: null } });
assert(created.data);
worked.push("createGuest");
const guest = created.data;
const asGuest = createClient<paths>({ baseUrl, headers: headers(guest.token) });
await asGuest.POST("/cart/{user_id}", { params: { path: guest }, body: { product_id: "hat", quantity: 1 } });
const merged = await api.POST("/cart/{user_id}/merge", {
  params: { path, header: key() },
  body: { from_user_id: guest.user_id, on_limit: "clamp", ...(guest.token ? { from_token: guest.token } : {}) },
});
assert.equal(cartOf("mergeCart", merged).item_count, 2);
assert.deepEqual(merged.data?.adjustments, []);

const deleted = await api.DELETE("/cart/{user_id}", { params: { path, header: key() } });
assert.equal(deleted.response.status, 204);
worked.push("deleteCart");

const health = await api.GET("/healthz");
assert.match(health.data?.version ?? "", /^\d+\.\d+\.\d+/);
worked.push("getHealth");
const readiness = await api.GET("/readyz");
assert(readiness.data);
worked.push("getReadiness");

console.log(JSON.stringify(worked));
