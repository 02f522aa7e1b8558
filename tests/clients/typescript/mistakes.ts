// Every marked line must fail to compile, with this error; no other line may.
import createClient from "openapi-fetch";
import type { AddProblem, Fault } from "./messages.js";
import type { paths } from "./schema.js";

const api = createClient<paths>({ baseUrl: "http://localhost" });
const params = { path: { user_id: "alice" } };

export function ofProblem(problem: AddProblem): number {
  switch (problem.type) {
    case "urn:cartsvc:problem:limit-exceded": // TS2678
      return 1;
    case "urn:cartsvc:problem:cart-not-found": // TS2678
      return 2;
    case "urn:cartsvc:problem:store-full":
      return problem.errors.length; // TS2339
    default:
      return problem.cart.version; // TS2339
  }
}

export function ofFault(fault: Fault): boolean {
  return fault.code === "max_quantitty"; // TS2367
}

await api.POST("/cart/{user_id}", { params, body: { product_id: "mug" } }); // TS2322
await api.POST("/cart/{user_id}/merge", { params, body: { from_user_id: "guest-1", strategy: "some" } }); // TS2322
await api.POST("/cart/{user_id}/items/", { params, body: { items: [] } }); // TS2345
const { data } = await api.GET("/cart/{user_id}", { params });
export const version: number = data.version; // TS18048
