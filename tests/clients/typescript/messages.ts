// Messages for shoppers, after the types of problems and the codes of faults.
import type { components, operations } from "./schema.js";

type Problem<Responses> = {
  [Status in keyof Responses]: Responses[Status] extends { content: { "application/problem+json": infer Body } }
    ? Body
    : never;
}[keyof Responses];
export type AddProblem = Problem<operations["addItem"]["responses"]>;
export type Fault = components["schemas"]["Fault"];

export function messageOfFault(fault: Fault): string {
  switch (fault.code) {
    case "max_quantity":
      return `At most ${fault.limit} of one item.`;
    case "currency_mismatch":
      return `All prices are in ${fault.currency}.`;
    default:
      return fault.detail;
  }
}

export function messageOfProblem(problem: AddProblem): string {
  switch (problem.type) {
    case "urn:cartsvc:problem:limit-exceeded":
    case "urn:cartsvc:problem:currency-mismatch":
    case "urn:cartsvc:problem:invalid-request":
      return problem.errors.map(messageOfFault).join(" ");
    case "urn:cartsvc:problem:precondition-failed":
      return `The cart has changed: ${problem.cart.item_count} items.`;
    case "urn:cartsvc:problem:store-unavailable":
    case "urn:cartsvc:problem:outcome-unknown":
      return "Try again.";
    default:
      return problem.title;
  }
}
