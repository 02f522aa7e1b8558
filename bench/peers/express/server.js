// A cart as people write it with Express and Valkey: read the JSON of the cart, change it, write it back.
// Two requests that change one cart at the same time lose one of the changes.
import express from "express";
import { createClient } from "redis";

const TTL_SECONDS = 30 * 24 * 60 * 60;
const client = await createClient({ url: process.env.VALKEY_URL }).on("error", console.error).connect();

async function readCart(userId) {
  const stored = await client.get(`cart:${userId}`);
  return stored ? JSON.parse(stored) : { user_id: userId, items: [], total_quantity: 0 };
}

async function writeCart(cart) {
  cart.total_quantity = cart.items.reduce((sum, item) => sum + item.quantity, 0);
  await client.set(`cart:${cart.user_id}`, JSON.stringify(cart), { EX: TTL_SECONDS });
}

const isQuantity = (value) => Number.isInteger(value) && value > 0;

const app = express();
app.use(express.json());

app.get("/cart/:userId", async (request, response) => {
  response.json(await readCart(request.params.userId));
});

app.post("/cart/:userId", async (request, response) => {
  const { product_id, quantity, unit_price = null, currency = null } = request.body ?? {};
  if (typeof product_id !== "string" || !isQuantity(quantity)) {
    return response.status(422).json({ error: "product_id and a positive quantity are required" });
  }
  const cart = await readCart(request.params.userId);
  const item = cart.items.find((each) => each.product_id === product_id);
  if (item) item.quantity += quantity;
  else cart.items.push({ product_id, quantity, unit_price, currency });
  await writeCart(cart);
  response.status(201).json(cart);
});

app.patch("/cart/:userId/items/:productId", async (request, response) => {
  const { quantity } = request.body ?? {};
  if (!isQuantity(quantity)) return response.status(422).json({ error: "a positive quantity is required" });
  const cart = await readCart(request.params.userId);
  const item = cart.items.find((each) => each.product_id === request.params.productId);
  if (!item) return response.status(404).json({ error: "no such item" });
  item.quantity = quantity;
  await writeCart(cart);
  response.json(cart);
});

app.delete("/cart/:userId", async (request, response) => {
  await client.del(`cart:${request.params.userId}`);
  response.status(204).end();
});

app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1");
