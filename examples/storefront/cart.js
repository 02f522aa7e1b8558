// @ts-check
/**
 * The cart of a shopper, for pages of a shop. Copy this file; it has no dependencies. docs/storefront.md explains it.
 *
 * @typedef {{ item_id: string, product_id: string, options: Record<string, string>, quantity: number,
 *   unit_price: number | null, currency: string | null, line_total: number | null,
 *   metadata: Record<string, string>, added_at: string }} Item
 * @typedef {{ product_id: string, quantity: number, options?: Record<string, string>, unit_price?: number | null,
 *   currency?: string | null, metadata?: Record<string, string> }} ItemInput
 * @typedef {{ quantity?: number, options?: Record<string, string>, unit_price?: number | null,
 *   currency?: string | null, metadata?: Record<string, string> }} ItemChange
 * @typedef {{ item_id: string, code: string, requested: number, applied: number }} Adjustment
 * @typedef {{ user_id: string | null, version: number, items: Item[], item_count: number, total_quantity: number,
 *   currency: string | null, subtotal: number | null, metadata: Record<string, string>, created_at: string | null,
 *   updated_at: string | null, expires_at: string | null, adjustments?: Adjustment[] }} Cart
 * @typedef {{ cart: Cart, etag: string | null }} State `etag` identifies this state of the cart; null: no cart exists
 * @typedef {{ code: string, detail?: string, pointer?: string, limit?: number, value?: number, item_id?: string,
 *   currency?: string, applied?: number }} Fault
 * @typedef {{ user_id: string, token: string | null }} Owner the owner of a cart, and the token that opens it
 * @typedef {Owner & { renewed: number }} Guest `renewed`: when its token was issued, by the clock of this browser
 * @typedef {{ getItem(key: string): string | null, setItem(key: string, value: string): void,
 *   removeItem(key: string): void }} Store
 * @typedef {{ status: number, etag: string | null, body: any, slug: string, retryAfter: number }} Answer
 * @typedef {{ base: string, user?: () => Promise<Owner | null>, storage?: Store, pause?: number | undefined,
 *   timeout?: number | undefined }} Options `user` returns the signed-in user with a fresh token, or null; `pause` and
 *   `timeout` are as in `send`
 */

const ATTEMPTS = 4; // of one request, in all
const LONGEST_WAIT = 10_000; // milliseconds; a response with a longer Retry-After is for the shopper to read
const RENEW_AFTER = 86_400_000; // a guest's token is renewed once a day; it is valid for CARTSVC_GUEST_TTL, 7 days
const GUEST = "cartsvc.guest"; // the key in localStorage, and the name of the lock
const PASSING = [408, 429, 502, 503, 504]; // statuses after which a retry is likely to succeed
const PASSING_CONFLICTS = ["cart-sealed", "merge-aborted"];
const UNKNOWN = ["no-response", "outcome-unknown", "internal-error", ""]; // "": the response is that of a proxy

/** A response that is not a success, or none at all (`status` 0, `slug` "no-response"). Decide by `slug`. */
export class Problem extends Error {
  /** @param {Answer} answer @param {string} key */
  constructor(answer, key) {
    super(answer.body?.detail ?? `The cart service cannot be reached (${answer.status}).`);
    this.status = answer.status;
    this.slug = answer.slug;
    this.etag = answer.etag;
    this.retryAfter = answer.retryAfter; // milliseconds; 0 if unknown
    this.key = key; // repeat the action with this key, and it is applied once
    /** @type {Fault[]} */
    this.faults = answer.body?.errors ?? [];
    /** @type {Cart | null} */
    this.cart = answer.body?.cart ?? null; // the current cart, in a 412
    /** Whether the request may have been applied. */
    this.outcomeUnknown = UNKNOWN.includes(answer.slug);
  }
}

/**
 * Send a request until a final response arrives, at most four times, all with the same key, so it is applied once.
 *
 * @param {string} url
 * @param {{ method?: string, token?: string | null | undefined, body?: unknown, headers?: Record<string, string>,
 *   key?: string, pause?: number | undefined, timeout?: number | undefined }} [options] `pause` is the first wait and
 *   `timeout` the limit of one attempt, in milliseconds
 * @returns {Promise<Answer>} also for statuses that are errors
 * @throws {Problem} if no response arrives
 */
export async function send(url, options = {}) {
  const { method = "GET", token, body, key = crypto.randomUUID(), pause = 300, timeout = 8000 } = options;
  /** @type {Record<string, string>} */
  const headers = { ...options.headers };
  if (method !== "GET") headers["Idempotency-Key"] = key;
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const request = { method, headers, body: body === undefined ? null : JSON.stringify(body) };
  for (let attempt = 1; ; attempt += 1) {
    const answer = await sendOnce(url, { ...request, signal: AbortSignal.timeout(timeout) });
    const passes = answer.status === 0 || PASSING.includes(answer.status) || PASSING_CONFLICTS.includes(answer.slug);
    if (!passes || attempt === ATTEMPTS || answer.retryAfter > LONGEST_WAIT) {
      if (answer.status === 0) throw new Problem(answer, key);
      return answer;
    }
    // Half of the pause is random, because clients that failed together would otherwise come back together.
    const backoff = pause * 2 ** (attempt - 1) * (0.5 + Math.random() / 2);
    await new Promise((done) => setTimeout(done, Math.max(backoff, answer.retryAfter)));
  }
}

/** @param {string} url @param {RequestInit} request @returns {Promise<Answer>} */
async function sendOnce(url, request) {
  try {
    const response = await fetch(url, request);
    const text = await response.text(); // the connection may also fail here
    const body = parsed(text);
    if (response.ok && text !== "" && body === null) throw new Error("This response is not from the service.");
    const slug = String(body?.type ?? "").replace("urn:cartsvc:problem:", "");
    const retryAfter = waitTime(response.headers.get("Retry-After"));
    return { status: response.status, etag: response.headers.get("ETag"), body, slug, retryAfter };
  } catch {
    return { status: 0, etag: null, body: null, slug: "no-response", retryAfter: 0 };
  }
}

/** @param {string} text @returns {any} null if a proxy has returned anything but JSON */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

/**
 * Return the milliseconds of a `Retry-After`: a number of seconds, or a date. 0 if it is absent, past or malformed.
 *
 * @param {string | null} value @param {number} [now]
 */
export function waitTime(value, now = Date.now()) {
  if (value === null) return 0;
  const milliseconds = /^\d+$/.test(value) ? 1000 * Number(value) : Date.parse(value) - now;
  return milliseconds > 0 ? milliseconds : 0;
}

/**
 * Return whether `cart` is newer than `other`, of the same user. An absent cart has no order.
 *
 * @param {Cart} cart @param {Cart} other
 */
export function isNewer(cart, other) {
  const [created, before] = [cart.created_at ?? "", other.created_at ?? ""];
  return created === before ? cart.version > other.version : created > before;
}

export class ShopCart {
  /** @type {State} */
  state = { cart: emptyCart(null), etag: null }; // the newest known state
  #newest = emptyCart(null); // the newest cart that existed
  #shownAt = 0;
  #clock = 0; // counts requests and responses, because an absent cart has no order of its own
  /** @type {Promise<Owner | null> | undefined} */
  #user;
  /** @type {string | undefined} */
  #userId; // of the signed-in user
  /** @type {Map<string, { wanted: number | null, done: Promise<State> }>} */
  #steps = new Map();
  /** @type {Set<(state: State) => void>} */
  #listeners = new Set();
  #ends = new AbortController();

  /** @param {Options} options */
  constructor(options) {
    this.options = options;
    const own = options.storage ?? browserStorage();
    this.storage = own ?? memoryStorage();
    this.isShared = own !== null; // with other tabs
    this.channel = this.isShared && globalThis.BroadcastChannel ? new BroadcastChannel(GUEST) : null;
    if (this.channel) this.channel.onmessage = (event) => this.#receive(event.data);
    const { signal } = this.#ends;
    globalThis.addEventListener?.("storage", (event) => event.key === GUEST && this.#reload(), { signal });
    globalThis.document?.addEventListener(
      "visibilitychange",
      () => document.visibilityState === "visible" && this.load().catch(() => {}),
      { signal },
    );
  }

  /** Stop listening to other tabs. */
  close() {
    this.#ends.abort();
    this.channel?.close();
  }

  /** Call `listener` with each new state. @param {(state: State) => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Load the cart. A shopper without a cart has an empty one, and no request is sent. @returns {Promise<State>} */
  async load() {
    for (let attempt = 1; ; attempt += 1) {
      const began = ++this.#clock;
      const owner = (await this.#currentUser()) ?? this.#storedGuest();
      if (owner === null) return this.#show({ cart: emptyCart(null), etag: null }, began);
      const answer = await this.#send("GET", cartPath(owner), { token: owner.token });
      if (answer.status === 200) return this.#show({ cart: answer.body, etag: answer.etag }, began);
      const problem = new Problem(answer, "");
      if (problem.status !== 401 || attempt === 2) throw problem;
      this.#forget(owner);
    }
  }

  /**
   * Add an item. To repeat an add that failed, pass the `key` of its Problem.
   *
   * @param {ItemInput} item @param {string} [key]
   */
  add(item, key = crypto.randomUUID()) {
    return this.#write("POST", "", { body: item, key, anyCart: true });
  }

  /** Remove an item. @param {string} itemId */
  remove(itemId) {
    return this.#write("DELETE", itemPath(itemId));
  }

  /**
   * Change an item in its place. With `options` it becomes another variant, and joins the item of that variant if the
   * cart has one. `metadata` replaces what the item had.
   *
   * @param {string} itemId @param {ItemChange} changes
   */
  change(itemId, changes) {
    return this.#write("PATCH", itemPath(itemId), { body: changes });
  }

  /** Replace the metadata of the cart, such as a gift note. @param {Record<string, string>} metadata */
  setMetadata(metadata) {
    return this.#write("PATCH", "", { body: { metadata } });
  }

  /**
   * Set the quantity of an item; 0 removes it. While a request is in progress, only the last number is kept.
   *
   * @param {string} itemId @param {number} quantity @returns {Promise<State>}
   */
  setQuantity(itemId, quantity) {
    const running = this.#steps.get(itemId);
    if (running) {
      running.wanted = quantity;
      return running.done;
    }
    const step = { wanted: /** @type {number | null} */ (quantity), done: Promise.resolve(this.state) };
    this.#steps.set(itemId, step);
    step.done = this.#run(itemId, step);
    return step.done;
  }

  /** @param {string} itemId @param {{ wanted: number | null }} step */
  async #run(itemId, step) {
    try {
      let state = this.state;
      while (step.wanted !== null) {
        const body = { quantity: step.wanted };
        step.wanted = null;
        state = await this.#write("PATCH", itemPath(itemId), { body });
      }
      return state;
    } finally {
      this.#steps.delete(itemId);
    }
  }

  /**
   * Replace the items by the result of `change`, which runs again if the cart has changed in the meantime. It must not
   * modify its argument.
   *
   * @param {(items: Item[]) => (Item | ItemInput)[]} change @returns {Promise<State>}
   */
  async edit(change) {
    let { cart, etag } = this.state;
    for (let attempt = 1; ; attempt += 1) {
      /** @type {Record<string, string>} */
      const headers = etag === null ? { "If-None-Match": "*" } : { "If-Match": etag };
      try {
        return await this.#write("PUT", "", { body: { items: change(cart.items), currency: cart.currency }, headers });
      } catch (error) {
        if (!(error instanceof Problem) || error.cart === null || attempt === 5) throw error;
        ({ cart, etag } = { cart: error.cart, etag: error.etag });
      }
    }
  }

  /**
   * Move the guest's items into the cart of the user who has signed in. Call it on each page with a signed-in user:
   * without a guest it only loads the cart. `adjustments` of the cart lists what did not fit.
   *
   * @param {{ strategy?: "sum" | "max" | "keep" | "replace", on_limit?: "refuse" | "clamp" }} [how]
   * @returns {Promise<State>}
   */
  async signIn(how = {}) {
    this.#user = undefined;
    const user = await this.#currentUser();
    const guest = this.#storedGuest() && (await this.#guest()); // with a token that is still valid
    this.channel?.postMessage(user?.user_id ?? "");
    if (guest === null || user === null) return this.load();
    const body = { from_user_id: guest.user_id, from_token: guest.token, ...how };
    const merged = await this.#write("POST", "/merge", { body }).catch(async (problem) => {
      if (problem.status === 409) await this.load().catch(() => {}); // both carts stay; show the user's
      throw problem;
    });
    this.#forget(guest);
    return merged;
  }

  /** Forget the user, after the shop has ended the session. @returns {Promise<State>} */
  async signOut() {
    this.#user = undefined;
    const user = await this.#currentUser();
    this.channel?.postMessage(user?.user_id ?? "");
    return this.load();
  }

  /**
   * @param {string} method @param {string} path below that of the cart
   * @param {{ body?: unknown, headers?: Record<string, string>, key?: string, anyCart?: boolean }} [request] `anyCart`:
   *   the change makes sense for another cart too, if this one was closed
   * @returns {Promise<State>}
   */
  async #write(method, path, { anyCart = false, key = crypto.randomUUID(), ...request } = {}) {
    for (let attempt = 1; ; attempt += 1) {
      const user = await this.#currentUser();
      const owner = user ?? (await this.#guest());
      const began = ++this.#clock;
      const { token } = owner;
      const answer = await this.#send(method, cartPath(owner) + path, { ...request, token, key }).catch((problem) => {
        this.load().catch(() => {}); // the request may have been applied
        throw problem;
      });
      if (answer.status < 300) return this.#show({ cart: answer.body, etag: answer.etag }, began);
      const problem = new Problem(answer, key);
      if (problem.cart !== null) this.#show({ cart: problem.cart, etag: problem.etag }, began);
      const isClosed = problem.slug === "cart-merged" || (problem.status === 401 && user === null);
      if (isClosed || problem.status === 401) this.#forget(owner);
      if (problem.status === 404 || isClosed) await this.load().catch(() => {});
      else if (problem.outcomeUnknown) this.load().catch(() => {});
      const mayRepeat = isClosed ? anyCart : problem.status === 401;
      if (!mayRepeat || attempt === 3) throw problem;
    }
  }

  /** @param {string} method @param {string} path @param {Parameters<typeof send>[1]} request */
  #send(method, path, request) {
    const { base, pause, timeout } = this.options;
    return send(base + path, { method, pause, timeout, ...request });
  }

  /** Show a state, unless it is older than the shown one. @param {State} state @param {number} began */
  #show(state, began, isOwn = true) {
    const { cart } = state;
    const shown = this.state.cart;
    const current = this.#userId ?? this.#storedGuest()?.user_id ?? null;
    if (cart.user_id !== current) return state; // the shopper has signed in or out since
    if (cart.user_id !== shown.user_id) this.#newest = emptyCart(cart.user_id);
    else if (cart.created_at === null ? began < this.#shownAt : !isNewer(cart, this.#newest)) return state;
    if (cart.created_at !== null) this.#newest = cart;
    this.#shownAt = ++this.#clock;
    this.state = state;
    for (const listener of this.#listeners) listener(state);
    if (isOwn) this.channel?.postMessage(state);
    return state;
  }

  /** @param {State | string} message from another tab: a state, or the signed-in user ("": none) */
  #receive(message) {
    if (typeof message !== "string") this.#show(message, ++this.#clock, false);
    else if (message !== (this.#userId ?? "")) this.#reload();
  }

  #reload() {
    this.#user = undefined;
    this.load().catch(() => {});
  }

  /** @returns {Promise<Owner | null>} */
  async #currentUser() {
    this.#user ??= (this.options.user ?? (async () => null))();
    const asked = this.#user;
    try {
      const user = await asked;
      if (asked === this.#user) this.#userId = user?.user_id;
      return user;
    } catch (error) {
      if (asked === this.#user) this.#user = undefined;
      throw error;
    }
  }

  /** Return the stored guest, or create one; two clicks and two tabs get the same. @returns {Promise<Owner>} */
  async #guest() {
    const usable = () => {
      const guest = this.#storedGuest();
      const isFresh = guest !== null && (guest.token === null || Date.now() - guest.renewed < RENEW_AFTER);
      return isFresh ? guest : null;
    };
    return usable() ?? alone(this.isShared, async () => usable() ?? this.#newGuest());
  }

  /** @returns {Promise<Owner>} */
  async #newGuest() {
    const old = this.#storedGuest();
    let answer = await this.#send("POST", "/cart", { token: old?.token });
    if (old !== null && answer.status === 401) answer = await this.#send("POST", "/cart", {});
    if (answer.status !== 201) {
      if (old !== null) return old; // its token is still valid
      throw new Problem(answer, "");
    }
    // Without Web Locks, another tab may have stored a guest since. Keep that one, because it may have a cart by now.
    const stored = this.#storedGuest();
    if (stored !== null && stored.user_id !== old?.user_id) return stored;
    const { user_id, token } = answer.body;
    this.storage.setItem(GUEST, JSON.stringify({ user_id, token, renewed: Date.now() }));
    return { user_id, token };
  }

  /** @returns {Guest | null} from the storage, because another tab may have changed it */
  #storedGuest() {
    const guest = parsed(this.storage.getItem(GUEST) ?? "null");
    return typeof guest?.user_id === "string" ? guest : null;
  }

  /** @param {Owner} owner whose token was rejected, or whose cart was merged into another one */
  #forget(owner) {
    this.#user = undefined;
    if (this.#storedGuest()?.user_id === owner.user_id) this.storage.removeItem(GUEST);
  }
}

/** @param {Owner} owner */
function cartPath(owner) {
  return `/cart/${encodeURIComponent(owner.user_id)}`;
}

/** @param {string} itemId */
function itemPath(itemId) {
  return `/items/${encodeURIComponent(itemId)}`;
}

/** @param {string | null} userId @returns {Cart} */
function emptyCart(userId) {
  const nothing = { currency: null, subtotal: 0, created_at: null, updated_at: null, expires_at: null };
  return { user_id: userId, version: 0, items: [], item_count: 0, total_quantity: 0, metadata: {}, ...nothing };
}

/** Return the storage that all tabs share; null if the browser forbids it. @returns {Store | null} */
function browserStorage() {
  try {
    localStorage.setItem("cartsvc.probe", "");
    localStorage.removeItem("cartsvc.probe");
    return localStorage;
  } catch {
    return null;
  }
}

/** Return a storage for this page only. @returns {Store} */
function memoryStorage() {
  const values = new Map();
  return {
    getItem: (key) => values.get(key) ?? null,
    setItem: (key, value) => void values.set(key, value),
    removeItem: (key) => void values.delete(key),
  };
}

/** @type {Promise<unknown>} */
let last = Promise.resolve();

/**
 * Run `work` while no other click, and with Web Locks no other tab, runs its own.
 *
 * @template T @param {boolean} isShared @param {() => Promise<T>} work @returns {Promise<T>}
 */
function alone(isShared, work) {
  const locks = isShared ? globalThis.navigator?.locks : undefined;
  if (locks) return /** @type {Promise<any>} */ (locks.request(GUEST, work));
  const done = last.then(work, work);
  last = done;
  return done;
}

/**
 * Return an amount in minor units as text, with the number of digits that its currency has.
 *
 * @param {number | null} minor @param {string | null} currency @param {string} [locale] such as "de-AT"
 */
export function formatMoney(minor, currency, locale) {
  if (minor === null || currency === null) return "";
  const format = new Intl.NumberFormat(locale, { style: "currency", currency });
  const digits = format.resolvedOptions().maximumFractionDigits;
  return format.format(/** @type {any} */ (`${minor}E-${digits}`)); // as text, because a quotient would be rounded
}

/** Messages for shoppers by code of a fault and by slug of a problem. Add languages, or pass a table of your own. */
export const MESSAGES = {
  en: {
    max_quantity: "At most {limit} of one item.",
    max_items: "At most {limit} different items fit into the cart.",
    max_cart_bytes: "The cart is full.",
    max_subtotal: "The total would be too high.",
    max_metadata_value: "At most {limit} characters.",
    currency_mismatch: "The cart has prices in {currency}.",
    "item-not-found": "This item is no longer in the cart.",
    "cart-not-found": "The cart is empty.",
    "cart-merged": "You have signed in. This is your cart now.",
    "precondition-failed": "The cart has changed. Please check it.",
    "too-many-requests": "Too many requests. Please wait a moment.",
    "no-response": "No connection. Please check whether the cart is right.",
    other: "This did not work. Please try again.",
  },
  de: {
    max_quantity: "Höchstens {limit} Stück je Artikel.",
    max_items: "Höchstens {limit} verschiedene Artikel passen in den Warenkorb.",
    max_cart_bytes: "Der Warenkorb ist voll.",
    max_subtotal: "Die Summe wäre zu hoch.",
    max_metadata_value: "Höchstens {limit} Zeichen.",
    currency_mismatch: "Die Preise im Warenkorb sind in {currency}.",
    "item-not-found": "Dieser Artikel ist nicht mehr im Warenkorb.",
    "cart-not-found": "Der Warenkorb ist leer.",
    "cart-merged": "Sie sind jetzt angemeldet. Das ist Ihr Warenkorb.",
    "precondition-failed": "Der Warenkorb hat sich geändert. Bitte prüfen Sie ihn.",
    "too-many-requests": "Zu viele Anfragen. Bitte warten Sie einen Moment.",
    "no-response": "Keine Verbindung. Bitte prüfen Sie, ob der Warenkorb stimmt.",
    other: "Das hat nicht geklappt. Bitte versuchen Sie es noch einmal.",
  },
};

/**
 * Return the messages of a problem, one per fault, or that of an adjustment.
 *
 * @param {unknown} error a Problem, an Adjustment or any other error
 * @param {Record<string, string>} [table]
 */
export function messages(error, table = MESSAGES.en) {
  if (!(error instanceof Problem)) return [worded(/** @type {Fault} */ (error ?? {}), table)];
  const faults = error.faults.length > 0 ? error.faults : [{ code: error.slug }];
  return [...new Set(faults.map((fault) => worded(fault, table, error.slug)))];
}

/** @param {Fault} fault @param {Record<string, string>} table */
function worded(fault, table, slug = "") {
  const text = table[fault.code] ?? table[slug] ?? table.other ?? "";
  const values = { limit: fault.limit ?? fault.applied, currency: fault.currency };
  return text.replace(/\{(limit|currency)\}/g, (_, name) => String(values[/** @type {"limit"} */ (name)] ?? ""));
}
