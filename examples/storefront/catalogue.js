// @ts-check
/**
 * The products of the shop: names, variants, prices in minor units. The cart service knows none of this.
 *
 * @typedef {"en" | "de"} Language
 * @typedef {"EUR" | "JPY"} Currency
 * @typedef {Record<Language, string>} Text
 * @typedef {{ value: string, text: Text, swatch?: string, price?: Partial<Record<Currency, number>> }} Choice `price`
 *   is added to that of the product
 * @typedef {{ name: string, text: Text, choices: Choice[] }} Option
 * @typedef {{ id: string, name: Text, about: Text, price: Record<Currency, number>, options: Option[],
 *   engraved?: boolean }} Product
 */

const COLOUR = { en: "Colour", de: "Farbe" };
const SIZE = { en: "Size", de: "Größe" };
const CLAY = { value: "clay", text: { en: "Clay", de: "Ton" }, swatch: "#c57b5c" };
const MOSS = { value: "moss", text: { en: "Moss", de: "Moos" }, swatch: "#7b8c6b" };
const INK = { value: "ink", text: { en: "Ink", de: "Tinte" }, swatch: "#43526a" };
const SAND = { value: "sand", text: { en: "Sand", de: "Sand" }, swatch: "#d9c6a5" };

/** @type {Product[]} */
export const PRODUCTS = [
  {
    id: "mug",
    name: { en: "Stoneware mug", de: "Steinzeugbecher" },
    about: { en: "Thrown by hand, glazed inside and out.", de: "Von Hand gedreht, innen und außen glasiert." },
    price: { EUR: 1800, JPY: 2900 },
    options: [
      { name: "colour", text: COLOUR, choices: [CLAY, MOSS, INK] },
      {
        name: "size",
        text: SIZE,
        choices: [
          { value: "250", text: { en: "250 ml", de: "250 ml" } },
          { value: "400", text: { en: "400 ml", de: "400 ml" }, price: { EUR: 450, JPY: 700 } },
        ],
      },
    ],
    engraved: true,
  },
  {
    id: "teapot",
    name: { en: "Teapot", de: "Teekanne" },
    about: { en: "One litre, with a lid that stays on.", de: "Ein Liter, mit einem Deckel, der hält." },
    price: { EUR: 6400, JPY: 9800 },
    options: [{ name: "colour", text: COLOUR, choices: [INK, SAND, MOSS] }],
  },
  {
    id: "board",
    name: { en: "Bread board", de: "Brotschneidebrett" },
    about: { en: "Solid wood, oiled, with a leather loop.", de: "Massives Holz, geölt, mit Lederschlaufe." },
    price: { EUR: 3900, JPY: 6200 },
    options: [
      {
        name: "wood",
        text: { en: "Wood", de: "Holz" },
        choices: [
          { value: "oak", text: { en: "Oak", de: "Eiche" }, swatch: "#cba274" },
          { value: "walnut", text: { en: "Walnut", de: "Nussbaum" }, swatch: "#7c5640", price: { EUR: 1000, JPY: 1600 } },
        ],
      },
      {
        name: "size",
        text: SIZE,
        choices: [
          { value: "s", text: { en: "Small", de: "Klein" } },
          { value: "l", text: { en: "Large", de: "Groß" }, price: { EUR: 1200, JPY: 1900 } },
        ],
      },
    ],
    engraved: true,
  },
  {
    id: "candle",
    name: { en: "Scented candle", de: "Duftkerze" },
    about: { en: "Rapeseed wax, burns for forty hours.", de: "Rapswachs, brennt vierzig Stunden." },
    price: { EUR: 2400, JPY: 3900 },
    options: [
      {
        name: "scent",
        text: { en: "Scent", de: "Duft" },
        choices: [
          { value: "fig", text: { en: "Fig", de: "Feige" } },
          { value: "cedar", text: { en: "Cedar", de: "Zeder" } },
          { value: "hay", text: { en: "Hay", de: "Heu" } },
        ],
      },
    ],
  },
  {
    id: "notebook",
    name: { en: "Notebook", de: "Notizbuch" },
    about: { en: "Thread-bound, 160 pages, opens flat.", de: "Fadengeheftet, 160 Seiten, bleibt offen liegen." },
    price: { EUR: 1650, JPY: 2600 },
    options: [
      { name: "colour", text: COLOUR, choices: [MOSS, INK, CLAY] },
      {
        name: "ruling",
        text: { en: "Ruling", de: "Lineatur" },
        choices: [
          { value: "dotted", text: { en: "Dotted", de: "Gepunktet" } },
          { value: "plain", text: { en: "Plain", de: "Blanko" } },
        ],
      },
    ],
    engraved: true,
  },
  {
    id: "tote",
    name: { en: "Canvas bag", de: "Baumwolltasche" },
    about: { en: "Heavy cotton, carries a week's shopping.", de: "Feste Baumwolle, trägt den Wocheneinkauf." },
    price: { EUR: 2200, JPY: 3500 },
    options: [{ name: "colour", text: COLOUR, choices: [SAND, INK, CLAY] }],
  },
];

/** @param {string} id @returns {Product | undefined} */
export function productOf(id) {
  return PRODUCTS.find((product) => product.id === id);
}

/**
 * Return the price of a variant in minor units.
 *
 * @param {Product} product @param {Record<string, string>} options @param {Currency} currency
 */
export function priceOf(product, options, currency) {
  const chosen = product.options.map(({ name, choices }) => choices.find(({ value }) => value === options[name]));
  return chosen.reduce((sum, choice) => sum + (choice?.price?.[currency] ?? 0), product.price[currency]);
}

/**
 * Return what `add` and `change` of the cart take for a variant. The title is for orders, and for pages of other shops.
 *
 * @param {Product} product @param {Record<string, string>} options @param {Currency} currency
 */
export function itemOf(product, options, currency) {
  return { options, unit_price: priceOf(product, options, currency), currency };
}
