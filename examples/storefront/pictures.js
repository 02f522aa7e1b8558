// @ts-check
/** Pictures of the products, drawn as SVG in the colour of the variant. */

/** @type {Record<string, string>} */
const COLOURS = {
  clay: "#c57b5c",
  moss: "#7b8c6b",
  ink: "#43526a",
  sand: "#dcc9a9",
  oak: "#cfa678",
  walnut: "#7f5842",
  fig: "#8a6f86",
  cedar: "#7d8b76",
  hay: "#c9ab62",
};

/** @param {string} colour @param {number} amount from -1 (black) to 1 (white) */
function shade(colour, amount) {
  const to = amount < 0 ? 0 : 255;
  const channels = [1, 3, 5].map((start) => Number.parseInt(colour.slice(start, start + 2), 16));
  const mixed = channels.map((channel) => Math.round(channel + (to - channel) * Math.abs(amount)));
  return `#${mixed.map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
}

/** Light from the left, across a round body. @param {string} id @param {string} colour */
function round(id, colour) {
  const stops = [[0, 0.04], [0.22, 0.24], [0.55, 0], [0.86, -0.2], [1, -0.14]];
  const parts = stops.map(([at, by]) => `<stop offset="${at}" stop-color="${shade(colour, by ?? 0)}"/>`);
  return `<linearGradient id="${id}">${parts.join("")}</linearGradient>`;
}

/** Light from above, on a flat body. @param {string} id @param {string} colour */
function flat(id, colour) {
  return `<linearGradient id="${id}" x2=".35" y2="1"><stop stop-color="${shade(colour, 0.14)}"/>
    <stop offset="1" stop-color="${shade(colour, -0.12)}"/></linearGradient>`;
}

/** @param {number} y @param {number} rx @param {number} [cx] */
function shadow(y, rx, cx = 124) {
  return `<ellipse cx="${cx}" cy="${y}" rx="${rx}" ry="${rx / 7}" fill="url(#shadow)"/>`;
}

/** @param {string} colour */
function mug(colour) {
  const foot = "#cdb595";
  return `<defs>${round("a", colour)}${round("b", foot)}</defs>${shadow(200, 84)}
    <path d="M164 98c42-10 52 58-6 62" fill="none" stroke="${shade(colour, -0.16)}" stroke-width="14" stroke-linecap="round"/>
    <path d="M164 97c42-10 52 58-6 62" fill="none" stroke="${shade(colour, 0.08)}" stroke-width="5" stroke-linecap="round" opacity=".7"/>
    <path d="M62 74v102q0 24 24 24h64q24 0 24-24V74z" fill="url(#b)"/>
    <path d="M62 74v94c18 8 34-5 56 1s38 8 56-1V74z" fill="url(#a)"/>
    <ellipse cx="118" cy="74" rx="56" ry="13" fill="${shade(colour, 0.22)}"/>
    <ellipse cx="118" cy="75.5" rx="51" ry="10.5" fill="${shade(colour, -0.42)}"/>
    <path d="M70 80a51 10.5 0 0 1 96 0c-14-5-30-7-48-7s-34 2-48 7z" fill="${shade(colour, -0.24)}"/>
    <path d="M76 100v62" stroke="#fff" stroke-width="6" stroke-linecap="round" opacity=".22"/>`;
}

/** @param {string} colour */
function teapot(colour) {
  return `<defs>${round("a", colour)}${round("c", shade(colour, -0.06))}</defs>${shadow(196, 88, 128)}<g transform="translate(10 0)">
    <path d="M60 128c-30-6-30-38-46-42l12-8c20 4 22 26 46 32z" fill="url(#c)"/>
    <path d="M78 92c-2-72 86-72 86 0" fill="none" stroke="#a9825d" stroke-width="7" stroke-linecap="round"/>
    <path d="M80 90c0-64 80-66 82-4" fill="none" stroke="#d2b08a" stroke-width="2" stroke-linecap="round"/>
    <path d="M120 90c48 0 72 24 72 56 0 30-28 50-72 50s-72-20-72-50c0-32 24-56 72-56z" fill="url(#a)"/>
    <path d="M84 99c8-14 64-14 72 0-14 9-58 9-72 0z" fill="url(#c)"/>
    <path d="M84 99c14 9 58 9 72 0" fill="none" stroke="${shade(colour, -0.32)}" stroke-width="2"/>
    <ellipse cx="120" cy="84" rx="10" ry="8" fill="url(#a)"/>
    <path d="M62 142c2-16 12-26 26-31" fill="none" stroke="#fff" stroke-width="6" stroke-linecap="round" opacity=".2"/></g>`;
}

/** @param {string} colour */
function board(colour) {
  const grain = shade(colour, -0.14);
  return `<defs>${flat("a", colour)}<clipPath id="k"><path d="${BOARD}"/></clipPath></defs>
    <g transform="rotate(10 120 120)">
      <path d="${BOARD}" fill="#000" opacity=".16" transform="translate(6 7)" filter="url(#soft)"/>
      <path d="${BOARD}" fill="${shade(colour, -0.3)}" transform="translate(2.5 3)"/>
      <path d="${BOARD}" fill="url(#a)"/>
      <g clip-path="url(#k)" fill="none" stroke="${grain}" stroke-width="1.6" opacity=".75">
        <path d="M82 60c6 60-8 90 0 150M92 40c4 70-4 110 2 170M152 60c-8 50 8 80 0 150M140 60c-6 60 6 90 2 150"/>
        <path d="M104 70c4 30-6 50-2 70s8 40 2 70M130 60c4 40 4 40 0 74-4 24 2 50 0 76"/>
        <path d="M117 104c-7 10-7 26 0 36s9 26 3 34M117 112c-3 7-3 14 0 20s4 10 2 14" />
      </g>
      <circle cx="120" cy="42" r="7" fill="${shade(colour, -0.55)}"/>
      <path d="M120 42c-10-10-12-26-2-32s16 8 4 32" fill="none" stroke="#8d6547" stroke-width="3.5" stroke-linecap="round"/>
    </g>`;
}
const BOARD =
  "M106 32q14-10 28 0c6 6 2 22 6 30 4 6 22 4 26 14l2 112q0 20-20 20H92q-20 0-20-20l2-112c4-10 22-8 26-14 4-8 0-24 6-30z";

/** @param {string} colour */
function candle(colour) {
  return `<defs>${round("a", colour)}${round("w", "#efe6d4")}
    <radialGradient id="f" cx=".5" cy=".7" r=".6"><stop stop-color="#fff6d8"/><stop offset=".55" stop-color="#f6c667"/>
      <stop offset="1" stop-color="#e08a3c"/></radialGradient>
    <radialGradient id="g"><stop stop-color="#f6c667" stop-opacity=".5"/><stop offset="1" stop-color="#f6c667" stop-opacity="0"/></radialGradient>
    </defs>${shadow(200, 78, 122)}
    <circle cx="120" cy="62" r="48" fill="url(#g)"/>
    <path d="M66 92v92q0 16 16 16h76q16 0 16-16V92z" fill="url(#a)"/>
    <ellipse cx="120" cy="92" rx="54" ry="12" fill="${shade(colour, 0.34)}"/>
    <ellipse cx="120" cy="94" rx="48" ry="9.5" fill="url(#w)"/>
    <path d="M120 94V78" stroke="#4a3a2c" stroke-width="3" stroke-linecap="round"/>
    <path d="M120 44c10 14 12 20 12 26a12 12 0 0 1-24 0c0-6 2-12 12-26z" fill="url(#f)"/>
    <rect x="88" y="124" width="64" height="50" rx="3" fill="#f6f1e7"/>
    <path d="M112 138h16M104 160h32M108 166h24" stroke="#8c8274" stroke-width="1.6" stroke-linecap="round"/>
    <path d="M120 154c-8-6-6-12 0-12s8 6 0 12z" fill="${colour}"/>
    <path d="M76 106v78" stroke="#fff" stroke-width="5" stroke-linecap="round" opacity=".24"/>`;
}

/** @param {string} colour @param {Record<string, string>} options */
function notebook(colour, options) {
  const dots = [0, 1, 2].flatMap((row) => [0, 1, 2, 3].map((n) => `<circle cx="${100 + n * 8}" cy="${94 + row * 8}" r="1.2"/>`));
  const ruling = options.ruling === "dotted" ? `<g fill="#9b9080">${dots.join("")}</g>` : "";
  return `<defs>${flat("a", colour)}</defs>
    <g transform="rotate(-8 120 120)">
      <rect x="64" y="42" width="120" height="164" rx="7" fill="#000" opacity=".18" filter="url(#soft)" transform="translate(5 6)"/>
      <rect x="62" y="40" width="122" height="164" rx="7" fill="${shade(colour, -0.34)}"/>
      <path d="M70 44h110v156H70z" fill="#f3ecdf"/>
      <path d="M180 48v148M177 46v152" stroke="#d5cabb" stroke-width="1"/>
      <rect x="58" y="38" width="118" height="164" rx="7" fill="url(#a)"/>
      <path d="M58 45a7 7 0 0 1 7-7h9v164h-9a7 7 0 0 1-7-7z" fill="${shade(colour, -0.22)}"/>
      <rect x="88" y="78" width="52" height="44" rx="2.5" fill="#f6f1e7"/>${ruling}
      <rect x="154" y="38" width="6" height="164" fill="${shade(colour, -0.45)}"/>
      <path d="M112 202v20l5-5 5 5v-20z" fill="#b4553f"/>
    </g>`;
}

/** @param {string} colour */
function tote(colour) {
  const dark = shade(colour, -0.28);
  const print = colour === COLOURS.sand ? "#2f5d50" : "#f3ecdf";
  return `<defs>${flat("a", colour)}</defs>${shadow(206, 80, 122)}
    <path d="M92 92c-2-72 60-72 56 0" fill="none" stroke="${shade(colour, -0.36)}" stroke-width="8"/>
    <path d="M58 86h124l8 112q1 8-8 8H58q-9 0-8-8z" fill="url(#a)"/>
    <path d="M58 86h124l.6 9H57.4z" fill="${shade(colour, -0.16)}"/>
    <path d="M94 106c-6-84 60-86 52 0" fill="none" stroke="${shade(colour, -0.1)}" stroke-width="8"/>
    <path d="M88 96h13v12H88zM139 96h13v12h-13z" fill="${shade(colour, -0.1)}" stroke="${dark}" stroke-width="1" stroke-dasharray="2 2"/>
    <path d="M62 120c4 24-2 50 2 78M176 116c-6 30 4 50-2 84M120 190c10 4 30 0 40 8" fill="none" stroke="${dark}" stroke-width="1.5" opacity=".35"/>
    <g fill="none" stroke="${print}" stroke-width="3.5" stroke-linecap="round">
      <circle cx="133" cy="136" r="7" fill="${print}" stroke="none"/>
      <path d="M88 168q16-26 32 0 14-16 32 0"/><path d="M96 180h48M106 190h28"/></g>`;
}

/** @type {Record<string, (colour: string, options: Record<string, string>) => string>} */
const DRAWINGS = { mug, teapot, board, candle, notebook, tote };
const SMALLER = ["250", "s"]; // sizes

/**
 * Return the picture of a variant, as a URL.
 *
 * @param {string} productId @param {Record<string, string>} options
 */
export function pictureOf(productId, options) {
  const values = Object.values(options);
  const colour = values.map((value) => COLOURS[value]).find((found) => found !== undefined) ?? "#a8a094";
  const scale = values.some((value) => SMALLER.includes(value)) ? 0.86 : 1;
  const drawing = DRAWINGS[productId]?.(colour, options) ?? "";
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 240 240"><defs>
    <radialGradient id="shadow"><stop stop-opacity=".34"/><stop offset="1" stop-opacity="0"/></radialGradient>
    <filter id="soft" x="-20%" y="-20%" width="140%" height="140%"><feGaussianBlur stdDeviation="5"/></filter></defs>
    <g transform="translate(120 200) scale(${scale}) translate(-120 -200)">${drawing}</g></svg>`;
  return `data:image/svg+xml,${encodeURIComponent(svg)}`;
}
