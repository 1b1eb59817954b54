// Parts of the page: values in, elements out; what a person does with them goes to a callback.

import { loadPicture } from "./service.js";

const CHIPS = 12, ATTRIBUTES = 6;

export const at = (id) => document.getElementById(id);
export const visible = (element) => element.getClientRects().length > 0;

export function say(text, kind = "", id = "state") {
  at(id).textContent = text;
  at(id).className = id === "end" ? `state end ${kind}` : `state ${kind}`;
}

// Changes the page; if that removes what has the focus, the focus goes to an element nearby instead of nowhere.
export function checkedFocus(change, nearby) {
  const before = document.activeElement;
  change();
  if (before && before !== document.body && !visible(before)) nearby()?.focus({ preventScroll: true });
}

function button(text, press) {
  const control = document.createElement("button");
  control.type = "button";
  control.textContent = text;
  control.addEventListener("click", press);
  return control;
}

export function drawTile(result, act) {
  const item = at("tile").content.firstElementChild.cloneNode(true);
  const name = result.product_id, like = item.querySelector(".like");
  loadPicture(item.querySelector("img"), result.url);
  item.querySelector("img").alt = `${result.category}, ${name}`;
  like.href = act.link(result);
  like.title = "More like this";
  like.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens the link beside
    event.preventDefault();
    act("like", result);
  });
  item.querySelector(".score").textContent = "score" in result ? result.score.toFixed(3) : "";
  item.querySelector(".category").textContent = result.category;
  item.querySelector(".product").textContent = result.products?.length > 1 ? `${name} and ${result.products.length - 1} more` : name;
  const facts = Object.entries(result.attributes ?? {}).slice(0, ATTRIBUTES);
  if (!facts.length) item.querySelector(".attributes").remove();
  for (const [name, value] of facts) {
    const term = document.createElement("dt"), fact = document.createElement("dd");
    const only = button(value, () => act("only", `${name}=${value}`));
    only.title = `Only ${name} ${value}`;
    term.textContent = name;
    fact.append(only);
    item.querySelector(".attributes").append(term, fact);
  }
  return item;
}

export function drawFilters(where, remove) {
  const buttons = where.map((condition) => {
    const control = button(`${condition.replace("=", ": ")} ×`, () => remove(condition));
    control.setAttribute("aria-label", `without the filter ${condition.replace("=", ": ")}`);
    return control;
  });
  at("only").replaceChildren(at("only").firstElementChild, ...buttons);
  at("only").hidden = !buttons.length;
}

// Shows which category is searched; `category` is that of the answer, if there is one yet.
export function drawCategories({ category: chosen, product }, category) {
  const auto = at("chips").querySelector("[data-category=auto]"), others = at("chips").querySelector("select");
  if (category) auto.textContent = product === null ? `Best guess: ${category.predicted} (${Math.round(100 * category.score)} %)` : `Its own: ${category.predicted}`;
  else if (chosen === "auto") auto.textContent = product === null ? "Best guess" : "Its own";
  let pressed = false;
  for (const chip of at("chips").querySelectorAll("button")) {
    const isChosen = chip.dataset.category === chosen;
    chip.setAttribute("aria-pressed", isChosen);
    pressed ||= isChosen;
  }
  if (others) others.value = pressed ? "" : chosen;
}

// Builds the choices once: the largest categories as buttons, the rest as a list.
drawCategories.choices = (categories, choose) => {
  const names = Object.entries(categories).sort(([, one], [, other]) => other - one).map(([name]) => name);
  const chips = [["auto", "Best guess"], ["all", "All categories"], ...names.slice(0, CHIPS).map((name) => [name, name])];
  const buttons = chips.map(([value, text]) => {
    const control = button(text, () => choose(value));
    control.dataset.category = value;
    return control;
  });
  const rest = names.slice(CHIPS);
  if (rest.length) {
    const others = document.createElement("select");
    others.setAttribute("aria-label", "Another category");
    others.append(new Option("Another category …", ""), ...rest.sort().map((name) => new Option(name, name)));
    others.addEventListener("change", () => others.value && choose(others.value));
    buttons.push(others);
  }
  at("chips").replaceChildren(at("chips").firstElementChild, ...buttons);
};
