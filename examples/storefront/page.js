// @ts-check
/** Elements of the page: find them, make them, and show messages in them. */

/**
 * Return the first element that the selector finds.
 *
 * @template {Element} T
 * @param {string} selector @param {new () => T} kind @param {ParentNode} [root] @returns {T}
 */
export function find(selector, kind, root = document) {
  const element = root.querySelector(selector);
  if (!(element instanceof kind)) throw new Error(`The page has no ${selector}.`);
  return element;
}

/** Return a copy of the content of a template, which is one element. @param {string} id @returns {HTMLElement} */
export function fromTemplate(id) {
  const copy = /** @type {DocumentFragment} */ (find(`#${id}`, HTMLTemplateElement).content.cloneNode(true));
  return find("*", HTMLElement, copy);
}

/**
 * Return a new element.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} name @param {Record<string, unknown>} [properties] @param {(Node | string)[]} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Open a dialog; its buttons with data-close and a click outside of it close it. @param {HTMLDialogElement} dialog */
export function prepare(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) button.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

const SHOWN_FOR = 6000; // milliseconds
/** @type {ReturnType<typeof setTimeout> | undefined} */
let hiding;

/**
 * Show a message where the shopper looks: in the drawer while it is open, else at the bottom of the page. Screen
 * readers read it. A message with an action, or about a fault, stays until the next one.
 *
 * @param {string} text "" shows nothing @param {{ fault?: boolean, label?: string, action?: () => void }} [more]
 */
export function tell(text, { fault = false, label, action } = {}) {
  clearTimeout(hiding);
  const isOpen = find("#drawer", HTMLDialogElement).open;
  for (const [selector, used] of /** @type {const} */ ([["#drawer-status", isOpen], ["#toast", !isOpen]])) {
    const place = find(selector, HTMLElement);
    for (const button of place.querySelectorAll("button")) button.remove();
    find("p", HTMLElement, place).textContent = used ? text : "";
    place.classList.toggle("shown", used && text !== "");
    place.classList.toggle("fault", used && fault);
    if (used && label && action) {
      place.append(make("button", { type: "button", className: "link", textContent: label, onclick: action }));
    }
  }
  if (!fault && !action) hiding = setTimeout(() => tell(""), SHOWN_FOR);
}
