"use strict";

const K = 24, LONGEST = 1600, STEP = 0.02;
const at = (id) => document.getElementById(id);
const query = { file: null, product: null, picture: "", box: null, category: "auto", where: [] };
let asked = 0, shown = 0, running = null, catalogue = { categories: {}, some: [] };

// -- what the service says

async function ask(path, options = {}) {
  const response = await fetch(path, { ...options, headers: named() });
  if (response.status === 401) at("door").hidden = false;
  const told = await response.json().catch(() => ({ detail: response.statusText }));
  if (!response.ok) throw new Error(told.detail || `the service answered ${response.status}`);
  return told;
}

function named() {
  const key = sessionStorage.getItem("likeness-key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function show(image, url) {
  image.src = "";
  if (!url.startsWith("/v1/images/") || !named().Authorization) { image.src = url; return; }
  const response = await fetch(url, { headers: named() });
  if (!response.ok) return;
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  image.src = URL.createObjectURL(await response.blob());
}

function request(offset, signal) {
  const values = { k: K, category: query.category, offset, distinct: at("distinct").checked };
  if (at("least").value !== "") values.min_score = at("least").value;
  if (query.product !== null) {
    const wanted = new URLSearchParams(values);
    for (const one of query.where) wanted.append("where", one);
    return ask(`v1/products/${encodeURIComponent(query.product)}/similar?${wanted}`, { signal });
  }
  const form = new FormData();
  form.append("image", query.file);
  if (query.box) form.append("box", query.box.map((side) => side.toFixed(4)).join(","));
  for (const [name, value] of Object.entries(values)) form.append(name, value);
  for (const one of query.where) form.append("where", one);
  return ask("v1/search", { method: "POST", body: form, signal });
}

async function search(more = false) {
  if (query.file === null && query.product === null) return;
  const number = ++asked;
  running?.abort();
  running = new AbortController();
  if (!more) shown = 0;
  say("searching …", "busy");
  try {
    const answer = await request(shown, running.signal);
    if (number === asked) draw(answer, more);
  } catch (error) {
    if (number !== asked || error.name === "AbortError") return;
    say(error.message, "bad");
    if (!more) at("results").replaceChildren();
    at("more").hidden = true;
  }
}

// -- what is seen

function say(text, kind = "") {
  at("state").textContent = text;
  at("state").className = `state ${kind}`;
}

function draw(answer, more) {
  const tiles = answer.results.map(tile);
  if (more) at("results").append(...tiles);
  else at("results").replaceChildren(...tiles);
  shown += answer.results.length;
  at("more").hidden = answer.results.length < K;
  chips(answer.category);
  const { searched, vectors, shards, answered, degraded } = answer.coverage;
  const took = Object.values(answer.took_ms).reduce((sum, part) => sum + part, 0);
  const part = `searched ${searched.toLocaleString()} of ${vectors.toLocaleString()} in ${took.toFixed(0)} ms`;
  if (answered < shards) say(`${part}; only ${answered} of ${shards} shards answered, so results may be missing`, "bad");
  else if (degraded.length) say(`${shown} results; ${part}; ${degraded.join("; ")}`, "bad");
  else if (!shown) say(`No good match; ${part}. Try all categories, another box or fewer filters.`);
  else say(`${shown} results; ${part}`);
}

function tile(result) {
  const item = at("tile").content.firstElementChild.cloneNode(true);
  const picture = item.querySelector("img"), name = result.product_id;
  show(picture, result.url);
  picture.alt = `${result.category}, ${name}`;
  item.querySelector(".like").addEventListener("click", () => like(result));
  item.querySelector(".score").textContent = "score" in result ? result.score.toFixed(3) : "";
  item.querySelector(".category").textContent = result.category;
  item.querySelector(".product").textContent = result.products?.length > 1 ? `${name} and ${result.products.length - 1} more` : name;
  for (const [key, value] of Object.entries(result.attributes ?? {}).slice(0, 6)) {
    const term = document.createElement("dt"), fact = document.createElement("dd");
    const only = document.createElement("button");
    only.type = "button";
    only.textContent = value;
    only.title = `Only ${key} ${value}`;
    only.addEventListener("click", () => narrow(`${key}=${value}`, true));
    term.textContent = key;
    fact.append(only);
    item.querySelector(".attributes").append(term, fact);
  }
  return item;
}

function chips(category) {
  const auto = `auto: ${category.predicted} (${Math.round(100 * category.score)} %)`;
  const names = [["auto", auto], ["all", "all"], ...Object.keys(catalogue.categories).map((name) => [name, name])];
  const legend = at("chips").firstElementChild;
  const buttons = names.map(([value, text]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.dataset.category = value;
    button.setAttribute("aria-pressed", value === query.category);
    button.addEventListener("click", () => {
      query.category = value;
      for (const other of buttons) other.setAttribute("aria-pressed", other === button);
      search();
    });
    return button;
  });
  const focused = document.activeElement?.dataset?.category;
  at("chips").replaceChildren(legend, ...buttons);
  at("chips").hidden = false;
  if (focused !== undefined) buttons.find((button) => button.dataset.category === focused)?.focus();
}

function narrow(condition, on) {
  query.where = query.where.filter((one) => one !== condition);
  if (on) query.where.push(condition);
  filters();
  search();
}

function filters() {
  const buttons = query.where.map((condition) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${condition.replace("=", ": ")} ×`;
    button.setAttribute("aria-label", `without the filter ${condition}`);
    button.addEventListener("click", () => narrow(condition, false));
    return button;
  });
  at("only").replaceChildren(at("only").firstElementChild, ...buttons);
  at("only").hidden = !buttons.length;
}

function picture(source, text, boxes) {
  show(at("photo"), source);
  at("asked-text").textContent = text;
  at("asked").hidden = false;
  at("drop").hidden = true;
  at("frame").classList.toggle("boxes", boxes);
  place(null);
}

// -- the query

async function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return say(`${file.name || "this"} is not a photo`, "bad");
  URL.revokeObjectURL(query.picture);
  Object.assign(query, { file: await smaller(file), product: null, box: null, picture: URL.createObjectURL(file) });
  picture(query.picture, "Draw a box around what you mean.", true);
  search();
}

async function smaller(file) {
  if (file.size < 1_500_000) return file;
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(bitmap.width * scale);
    canvas.height = Math.round(bitmap.height * scale);
    const drawing = canvas.getContext("2d");
    drawing.fillStyle = "white";
    drawing.fillRect(0, 0, canvas.width, canvas.height);
    drawing.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    return blob ? new File([blob], "photo.jpg", { type: "image/jpeg" }) : file;
  } catch {
    return file; // the service says what is wrong with it
  }
}

function like(result) {
  Object.assign(query, { file: null, product: result.product_id, box: null });
  picture(result.url, `More like ${result.product_id}`, false);
  at("again").focus({ preventScroll: true });
  scrollTo({ top: 0, behavior: "smooth" });
  search();
}

function again() {
  asked++;
  running?.abort();
  Object.assign(query, { file: null, product: null, box: null, category: "auto", where: [] });
  filters();
  at("asked").hidden = true;
  at("chips").hidden = true;
  at("drop").hidden = false;
  at("file").value = "";
  at("file").focus();
  start();
}

function start() {
  at("more").hidden = true;
  at("results").replaceChildren(...catalogue.some.map(tile));
  say(catalogue.some.length ? "Or start with one of these:" : "The catalogue is empty.");
}

// -- the box

function place(box) {
  query.box = box;
  at("box").hidden = at("whole").hidden = box === null;
  if (!box) return;
  const [left, top, right, bottom] = box;
  Object.assign(at("box").style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
  });
}

function point(event) {
  const frame = at("frame").getBoundingClientRect();
  const inside = (value) => Math.min(1, Math.max(0, value));
  return [inside((event.clientX - frame.left) / frame.width), inside((event.clientY - frame.top) / frame.height)];
}

function drawn(event) {
  if (query.file === null || event.button) return;
  const frame = at("frame"), [x, y] = point(event);
  frame.setPointerCapture(event.pointerId);
  const before = query.box;
  const move = (next) => {
    const [u, v] = point(next);
    place([Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)]);
  };
  const end = () => {
    frame.removeEventListener("pointermove", move);
    const [left, top, right, bottom] = query.box ?? [0, 0, 0, 0];
    if (right - left < STEP || bottom - top < STEP) place(before);
    else search();
  };
  frame.addEventListener("pointermove", move);
  frame.addEventListener("pointerup", end, { once: true });
}

let typed = 0;
function pressed(event) {
  if (query.file === null) return;
  if (event.key === "Escape" && query.box) { place(null); search(); return; }
  if (event.key.toLowerCase() === "b" && !query.box) place([0.25, 0.25, 0.75, 0.75]);
  else if (!query.box || !event.key.startsWith("Arrow")) return;
  else {
    event.preventDefault();
    let [left, top, right, bottom] = query.box;
    const x = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key] ?? 0, y = { ArrowUp: -STEP, ArrowDown: STEP }[event.key] ?? 0;
    right += x; bottom += y;
    if (!event.shiftKey) { left += x; top += y; }
    if (left < 0 || top < 0 || right > 1.0001 || bottom > 1.0001 || right - left < STEP || bottom - top < STEP) return;
    place([left, top, Math.min(1, right), Math.min(1, bottom)]);
  }
  clearTimeout(typed);
  typed = setTimeout(search, 400);
}

// -- begin

at("file").addEventListener("change", () => take(at("file").files[0]));
at("again").addEventListener("click", again);
at("whole").addEventListener("click", () => { place(null); at("frame").focus(); search(); });
at("more").addEventListener("click", () => search(true));
at("least").addEventListener("change", () => search());
at("distinct").addEventListener("change", () => search());
at("frame").addEventListener("pointerdown", drawn);
at("frame").addEventListener("keydown", pressed);
addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", (event) => { event.preventDefault(); at("drop").classList.remove("over"); take(event.dataTransfer.files[0]); });

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("likeness-key", at("key").value);
  at("door").hidden = true;
  enter();
});

async function enter() {
  say("loading …", "busy");
  try {
    const told = catalogue = await ask("v1/catalogue?some=18");
    at("about").textContent = `${told.images.toLocaleString()} images of ${told.products.toLocaleString()} products, build ${told.build}`;
    if (query.file === null && query.product === null) start();
  } catch (error) {
    at("about").textContent = "";
    say(error.message, "bad");
  }
}

enter();
