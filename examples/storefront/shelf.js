// @ts-check
/** The products of the shop, with a choice of variants each. */

import { formatMoney } from "./cart.js";
import { PRODUCTS, priceOf } from "./catalogue.js";
import { find, fromTemplate, make } from "./page.js";
import { pictureOf } from "./pictures.js";
import { language, word } from "./words.js";

/** @typedef {import("./catalogue.js").Product} Product */
/** @typedef {(product: Product, options: Record<string, string>) => void} Add */

/**
 * Show the products, in the language of the page. What the shopper has chosen stays.
 *
 * @param {HTMLElement} shelf @param {Map<string, Record<string, string>>} chosen options by product
 * @param {import("./catalogue.js").Currency} currency @param {Add} add
 */
export function showShelf(shelf, chosen, currency, add) {
  const cards = PRODUCTS.map((product) => {
    const first = product.options.map(({ name, choices }) => [name, choices[0]?.value ?? ""]);
    const options = chosen.get(product.id) ?? Object.fromEntries(first);
    chosen.set(product.id, options);
    return card(product, options, currency, add);
  });
  shelf.replaceChildren(...cards);
}

/**
 * @param {Product} product @param {Record<string, string>} options
 * @param {import("./catalogue.js").Currency} currency @param {Add} add
 */
function card(product, options, currency, add) {
  const card = fromTemplate("product");
  const name = product.name[language()];
  find("h3", HTMLElement, card).textContent = name;
  find(".about", HTMLElement, card).textContent = product.about[language()];
  const button = find("button", HTMLElement, card);
  button.append(word("add"), make("span", { className: "unseen", textContent: `: ${name}` }));
  button.addEventListener("click", () => add(product, { ...options }));
  const show = () => {
    const picture = find("img", HTMLImageElement, card);
    picture.src = pictureOf(product.id, options);
    picture.alt = [name, ...labels(product, options)].join(", ");
    find(".price", HTMLElement, card).textContent = formatMoney(priceOf(product, options, currency), currency, language());
  };
  for (const option of product.options) {
    find(".options", HTMLElement, card).append(choice(product, option, options, show));
  }
  show();
  return card;
}

/** Return the words for what was chosen. @param {Product} product @param {Record<string, string>} options */
export function labels(product, options) {
  const chosen = product.options.map(({ name, choices }) => choices.find(({ value }) => value === options[name]));
  return chosen.map((choice) => choice?.text[language()] ?? "");
}

/**
 * @param {Product} product @param {import("./catalogue.js").Option} option @param {Record<string, string>} options
 * @param {() => void} show
 */
function choice(product, option, options, show) {
  const legend = make("legend", { className: "unseen", textContent: option.text[language()] });
  const group = make("fieldset", { className: "choice" }, legend);
  for (const { value, text, swatch } of option.choices) {
    const radio = make("input", { type: "radio", name: `${product.id}-${option.name}`, value });
    radio.checked = options[option.name] === value;
    radio.addEventListener("change", () => {
      options[option.name] = value;
      show();
    });
    const label = make("label", { title: text[language()] }, radio, make("span", { textContent: text[language()] }));
    label.classList.toggle("swatch", swatch !== undefined);
    if (swatch !== undefined) label.style.setProperty("--swatch", swatch);
    group.append(label);
  }
  return group;
}
