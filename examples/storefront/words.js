// @ts-check
/** The words of the page in two languages. Messages of the cart are in cart.js. @typedef {"en" | "de"} Language */

/** @type {Record<Language, Record<string, string>>} */
export const WORDS = {
  en: {
    skip: "Skip to the products",
    demo: "Only a demo",
    language: "Language",
    currency: "Currency",
    cart: "Cart",
    title: "Things for the table and the desk",
    intro: "Made to be used every day, and to last.",
    products: "Products",
    add: "Add to cart",
    added: "{name} is in the cart.",
    close: "Close",
    yourCart: "Your cart",
    empty: "Nothing in it yet.",
    browse: "Look at the products",
    quantity: "Quantity of {name}",
    less: "One less of {name}",
    more: "One more of {name}",
    remove: "Remove",
    removed: "{name} is no longer in the cart.",
    each: "{price} each",
    engraving: "Engraving",
    giftNote: "Gift note",
    saved: "Saved.",
    subtotal: "Subtotal",
    shipping: "Including VAT and delivery",
    order: "Order",
    ordered: "Thank you. Your order has the number {number}, and nothing will be charged.",
    orderChanged: "The cart had changed elsewhere, so nothing was ordered. Please check it.",
    signIn: "Sign in",
    signOut: "Sign out",
    toy: "A toy: it signs in anyone, without a password.",
    signInHint: "The items of the guest's cart move into the user's cart.",
    signedInHint: "You are signed in as {name}. The cart stays with the user after you sign out.",
    asAda: "Sign in as Ada",
    asGrace: "Sign in as Grace",
    signedIn: "Signed in as {name}. This is your cart now.",
    signedOut: "Signed out.",
    cut: "{name}: {reason}",
    moveWhatFits: "Move what fits",
    tryAgain: "Try again",
    lostRequest: "The request was lost. Trying again …",
    lostAnswer: "The response was lost. Trying again with the same key …",
    once: "Done after {count} attempts, and applied once.",
    workshop: "Behind the counter",
    workshopIntro: "Make it hard for the cart, and see what it does about it.",
    network: "Lose the network",
    networkWorks: "No",
    networkFlaky: "Now and then",
    networkDown: "All of it",
    hintWorks: "Every request gets its response.",
    hintFlaky: "Of each change, the first request and the second response are lost. The third attempt has the same key.",
    hintDown: "Nothing arrives. After four attempts the page offers to try again, with the same key.",
    elsewhere: "Change it elsewhere",
    elsewhereHint:
      "Another device adds a candle, and this page does not know. Then write an engraving: the cart service rejects it with 412, and the page applies it to the newer cart.",
    elsewhereDone: "Another device has added a candle. Now write an engraving in the cart.",
    elsewhereFirst: "Put a mug, a board or a notebook into the cart first.",
    rebased: "The cart had changed elsewhere (412). Your change was applied to the newer cart.",
    secondTab: "Open a second tab",
    wire: "On the wire",
    wireEmpty: "No request yet: an empty cart costs none.",
    wireRequest: "request lost",
    wireAnswer: "response lost",
    wireReplayed: "applied before",
    wireElsewhere: "other device",
    key: "key {start}",
    footer: "Nothing is sold here. This page is examples/storefront of cartsvc: copy what you need.",
  },
  de: {
    skip: "Zu den Produkten springen",
    demo: "Nur eine Demo",
    language: "Sprache",
    currency: "Währung",
    cart: "Warenkorb",
    title: "Dinge für den Esstisch und den Schreibtisch",
    intro: "Für jeden Tag gemacht, und für viele Jahre.",
    products: "Produkte",
    add: "In den Warenkorb",
    added: "{name} liegt im Warenkorb.",
    close: "Schließen",
    yourCart: "Ihr Warenkorb",
    empty: "Noch ist nichts darin.",
    browse: "Produkte ansehen",
    quantity: "Anzahl von {name}",
    less: "Eins weniger von {name}",
    more: "Eins mehr von {name}",
    remove: "Entfernen",
    removed: "{name} ist nicht mehr im Warenkorb.",
    each: "je {price}",
    engraving: "Gravur",
    giftNote: "Geschenkbotschaft",
    saved: "Gespeichert.",
    subtotal: "Zwischensumme",
    shipping: "Inklusive Mehrwertsteuer und Versand",
    order: "Bestellen",
    ordered: "Danke. Ihre Bestellung hat die Nummer {number}, und nichts wird berechnet.",
    orderChanged: "Der Warenkorb hatte sich anderswo geändert. Darum wurde nichts bestellt. Bitte prüfen Sie ihn.",
    signIn: "Anmelden",
    signOut: "Abmelden",
    toy: "Ein Spielzeug: Es meldet jeden an, ohne Passwort.",
    signInHint: "Die Artikel aus dem Warenkorb des Gasts kommen in den des Kontos.",
    signedInHint: "Sie sind als {name} angemeldet. Der Warenkorb bleibt nach dem Abmelden beim Konto.",
    asAda: "Als Ada anmelden",
    asGrace: "Als Grace anmelden",
    signedIn: "Angemeldet als {name}. Das ist jetzt Ihr Warenkorb.",
    signedOut: "Abgemeldet.",
    cut: "{name}: {reason}",
    moveWhatFits: "Übernehmen, was passt",
    tryAgain: "Noch einmal versuchen",
    lostRequest: "Die Anfrage ging verloren. Neuer Versuch …",
    lostAnswer: "Die Antwort ging verloren. Neuer Versuch mit demselben Schlüssel …",
    once: "Nach {count} Versuchen erledigt, und einmal angewendet.",
    workshop: "Hinter der Theke",
    workshopIntro: "Machen Sie es dem Warenkorb schwer, und sehen Sie, was er tut.",
    network: "Netzwerk verlieren",
    networkWorks: "Nein",
    networkFlaky: "Ab und zu",
    networkDown: "Ganz",
    hintWorks: "Jede Anfrage bekommt ihre Antwort.",
    hintFlaky: "Von jeder Änderung gehen die erste Anfrage und die zweite Antwort verloren. Der dritte Versuch hat denselben Schlüssel.",
    hintDown: "Nichts kommt an. Nach vier Versuchen bietet die Seite einen neuen an, mit demselben Schlüssel.",
    elsewhere: "Anderswo ändern",
    elsewhereHint:
      "Ein anderes Gerät legt eine Kerze hinein, und diese Seite weiß es nicht. Schreiben Sie dann eine Gravur: Der Dienst lehnt sie mit 412 ab, und die Seite wendet sie auf den neueren Warenkorb an.",
    elsewhereDone: "Ein anderes Gerät hat eine Kerze hineingelegt. Schreiben Sie jetzt im Warenkorb eine Gravur.",
    elsewhereFirst: "Legen Sie erst einen Becher, ein Brett oder ein Notizbuch in den Warenkorb.",
    rebased: "Der Warenkorb hatte sich anderswo geändert (412). Ihre Änderung gilt jetzt für den neueren.",
    secondTab: "Zweiten Tab öffnen",
    wire: "Auf der Leitung",
    wireEmpty: "Noch keine Anfrage: Ein leerer Warenkorb kostet keine.",
    wireRequest: "Anfrage verloren",
    wireAnswer: "Antwort verloren",
    wireReplayed: "schon angewendet",
    wireElsewhere: "anderes Gerät",
    key: "Schlüssel {start}",
    footer: "Hier wird nichts verkauft. Diese Seite ist examples/storefront von cartsvc: Kopieren Sie, was Sie brauchen.",
  },
};

const KEY = "toy-shop.language";

/** @returns {Language} */
function preferred() {
  const chosen = localStorage.getItem(KEY) ?? navigator.language;
  return chosen.startsWith("de") ? "de" : "en";
}

let current = preferred();

/** Return the language of the page. */
export function language() {
  return current;
}

/** Use this language from now on, also on the next visit. @param {Language} chosen */
export function useLanguage(chosen) {
  current = chosen;
  localStorage.setItem(KEY, chosen);
}

/** Return a text of the page. @param {string} key @param {Record<string, string | number>} [values] */
export function word(key, values = {}) {
  const text = WORDS[current][key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** Write the texts of the elements that name one. */
export function translate() {
  document.documentElement.lang = current;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = word(element.getAttribute("data-text") ?? "");
  }
  for (const element of document.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", word(element.getAttribute("data-label") ?? ""));
  }
}
