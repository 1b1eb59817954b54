// The page: what a person does becomes a query, an entry of the browser's history, and a request; answers become tiles.

import { explain, worthAnotherTry, MESSAGES, PHOTOS, results, nothing, end, limit } from "./messages.js";
import { photoIn, prepare, PhotoProblem } from "./photo.js";
import { call, key, loadPicture, Refusal } from "./service.js";
import { at, checkedFocus, drawCategories, drawFilters, drawTile, say, visible } from "./view.js";

const K = 24, STEP = 0.02, REST_MS = 400, ENTRIES = 30;
const NOTHING = { file: null, picture: "", product: null, image: "", box: null, category: "auto", where: [], least: "", distinct: false };
const IMAGE_ID = /^[0-9a-f]{64}$/;

let catalogue = null, running = null, entry = null, taken = 0, number = 0, again = null;
let begun;
const beginning = new Promise((resolve) => { begun = resolve; }); // a photo that comes before the catalogue waits
const entries = new Map(); // by id, of this load of the page: an entry keeps its tiles, so that going back asks for nothing

// -- history

function newEntry(query) {
  return { query, tiles: [], answer: null, whole: false, top: 0, focus: null };
}

function link(query) {
  if (query.product === null) return "./";
  const values = new URLSearchParams({ product: query.product });
  if (query.image) values.set("image", query.image);
  if (query.category !== "auto") values.set("category", query.category);
  for (const condition of query.where) values.append("where", condition);
  if (query.least) values.set("min_score", query.least);
  if (query.distinct) values.set("distinct", "true");
  return `./?${values}`;
}

function linked() {
  const values = new URLSearchParams(location.search), image = values.get("image") ?? "";
  return {
    ...NOTHING,
    product: values.get("product"),
    image: IMAGE_ID.test(image) ? image : "",
    category: values.get("category") || "auto",
    where: values.getAll("where"),
    least: values.get("min_score") ?? "",
    distinct: values.get("distinct") === "true",
  };
}

function go(changes, { replace = false, focus = null } = {}) {
  leave();
  const next = newEntry({ ...entry.query, ...changes });
  const id = replace ? history.state.id : `${performance.timeOrigin} ${++number}`;
  const state = { id, photo: next.query.file !== null };
  history[replace ? "replaceState" : "pushState"](state, "", link(next.query));
  entries.delete(id);
  entries.set(id, next);
  forgetOldest();
  visit(next);
  const target = focus?.();
  if (target && visible(target)) target.focus({ preventScroll: true });
}

function forgetOldest() {
  while (entries.size > ENTRIES) {
    const [id, { query: { picture } }] = entries.entries().next().value;
    entries.delete(id);
    if (picture && ![...entries.values()].some((other) => other.query.picture === picture)) URL.revokeObjectURL(picture);
  }
}

function leave() {
  if (entry) Object.assign(entry, { top: scrollY, focus: document.activeElement });
}

function back(event) {
  leave();
  const known = entries.get(event.state?.id);
  if (known) { visit(known); scrollTo(0, known.top); }
  else arrive(event.state);
  if (known?.focus && visible(known.focus)) known.focus.focus({ preventScroll: true });
}

// The first entry, or one of an earlier load of the page, of which there is only what its address and state say.
function arrive(state) {
  const query = linked(), id = state?.id ?? `${performance.timeOrigin} ${++number}`;
  const next = newEntry(query.product === null ? NOTHING : query);
  history.replaceState({ ...state, id }, "");
  entries.set(id, next);
  visit(next);
  if (state?.photo) say(MESSAGES.reloaded, "bad");
}

// -- searching

const isQuery = (query) => query.file !== null || query.product !== null;

function request(query, offset, signal) {
  const values = { k: K, category: query.category, offset, distinct: query.distinct };
  if (query.least !== "") values.min_score = query.least;
  if (query.product !== null) {
    const words = new URLSearchParams(values);
    for (const condition of query.where) words.append("where", condition);
    return call(`v1/products/${encodeURIComponent(query.product)}/similar?${words}`, { signal });
  }
  const form = new FormData();
  form.append("image", query.file);
  if (query.box) form.append("box", query.box.map((side) => side.toFixed(4)).join(","));
  for (const [name, value] of Object.entries(values)) form.append(name, value);
  for (const condition of query.where) form.append("where", condition);
  return call("v1/search", { method: "POST", body: form, signal });
}

async function search(more = false) {
  const mine = entry;
  running?.abort();
  running = new AbortController();
  again = null;
  if (more) say(MESSAGES.searching, "busy", "end");
  else { say(MESSAGES.searching, "busy"); say("", "", "end"); }
  try {
    const answer = await request(mine.query, more ? mine.tiles.length : 0, running.signal);
    opened();
    if (mine !== entry) return;
    const added = answer.results.map((result) => drawTile(result, act));
    Object.assign(mine, { answer, tiles: more ? [...mine.tiles, ...added] : added, whole: added.length < K });
    drawAnswer(more ? added[0] : null);
  } catch (error) {
    if (mine !== entry || error.name === "AbortError") return;
    if (!(error instanceof Refusal)) throw error;
    if (more && error.code === "bad_request") return drawEnd(limit(mine.tiles.length)); // past serve.k_max
    fail(error, () => search(more), more);
  }
}

function fail(refusal, retry, more = false) {
  if (refusal.code === "no_key") return lock(retry);
  opened();
  again = worthAnotherTry(refusal) ? retry : null;
  say(explain(refusal, entry?.query.product), "bad", more ? "end" : "state");
  if (more) return;
  at("retry").hidden = again === null;
  at("searched").textContent = "";
  at("missing").hidden = true;
  checkedFocus(() => {
    at("results").replaceChildren();
    at("more").hidden = true;
  }, nearQuery);
}

// -- what is seen

const nearQuery = () => [entry?.query.file ? at("frame") : at("again"), at("file")].find(visible);

function act(what, value) {
  if (what === "only") return narrow(value, true);
  const { product_id: product, image_id: image } = value;
  go({ file: null, picture: "", box: null, product, image, category: "auto" }, { focus: nearQuery });
  scrollTo({ top: 0 });
}
act.link = ({ product_id: product, image_id: image }) => link({ ...NOTHING, product, image });

function visit(next) {
  unsettle();
  running?.abort();
  again = null;
  entry = next;
  const { query } = next;
  checkedFocus(() => {
    drawSubject(query);
    drawFilters(query.where, (condition) => narrow(condition, false));
    at("chips").hidden = !isQuery(query);
    drawCategories(query, next.answer?.category ?? null);
    at("least").value = query.least;
    at("distinct").checked = query.distinct;
    if (!isQuery(query)) start();
    else if (next.answer) drawAnswer();
  }, nearQuery);
  if (isQuery(query) && !next.answer) search();
}

function start() {
  if (!entry.tiles.length) entry.tiles = catalogue.some.map((item) => drawTile(item, act));
  at("results").replaceChildren(...entry.tiles);
  at("more").hidden = at("missing").hidden = at("retry").hidden = true;
  at("searched").textContent = "";
  say("", "", "end");
  say(entry.tiles.length ? MESSAGES.start : MESSAGES.empty);
}

function drawSubject({ file, picture, product, image, box }) {
  const exists = file !== null || product !== null;
  at("subject").hidden = !exists;
  at("drop").hidden = exists;
  at("file").value = "";
  at("permalink").hidden = product === null;
  at("frame").hidden = product !== null && !image;
  at("frame").classList.toggle("boxes", file !== null);
  for (const [name, value] of Object.entries({ role: "application", tabindex: "0", "aria-label": MESSAGES.boxKeys })) {
    if (file === null) at("frame").removeAttribute(name);
    else at("frame").setAttribute(name, value);
  }
  at("subject-text").textContent = product === null ? MESSAGES.box : `More like ${product}`;
  at("photo").alt = product === null ? "Your photo" : `The product ${product}`;
  const source = product === null ? picture : image && `/v1/images/${image}`;
  if (source && source !== at("photo").dataset.url) loadPicture(at("photo"), source);
  if (product !== null) at("permalink").href = link(entry.query);
  document.title = product === null ? (exists ? "Your photo - likeness" : "likeness") : `Like ${product} - likeness`;
  place(box);
}

function drawAnswer(added = null) {
  const { query, answer, tiles, whole } = entry, { searched, vectors, shards, answered, degraded } = answer.coverage;
  checkedFocus(() => {
    if (added) at("results").append(...tiles.slice(tiles.indexOf(added)));
    else at("results").replaceChildren(...tiles);
    drawCategories(query, answer.category);
  }, nearQuery);
  at("retry").hidden = true;
  const took = Object.values(answer.took_ms).reduce((sum, part) => sum + part, 0);
  at("searched").textContent = `Searched ${searched.toLocaleString()} of ${vectors.toLocaleString()} photos in ${took.toFixed(0)} ms`;
  const count = tiles.length ? results(tiles.length) : nothing(query);
  const problem = answered < shards ? MESSAGES.lacking : degraded.length ? MESSAGES.partly : "";
  say(problem ? `${count} ${problem}` : count, problem && "bad");
  const reasons = [...degraded, ...answer.hints];
  at("missing").hidden = !reasons.length;
  at("missing").querySelector("ul").replaceChildren(...reasons.map((reason) => {
    const item = document.createElement("li");
    item.textContent = reason;
    return item;
  }));
  if (whole) drawEnd(tiles.length >= K ? end(tiles.length) : "");
  else { at("more").hidden = false; say("", "", "end"); }
}

function drawEnd(text) {
  say(text, "", "end");
  checkedFocus(() => { at("more").hidden = true; }, () => at("end"));
}

// -- the query

async function take(file) {
  const mine = ++taken;
  try {
    say(MESSAGES.reading, "busy");
    const photo = await prepare(file);
    await beginning;
    if (mine !== taken) return;
    const picture = URL.createObjectURL(photo);
    go({ ...NOTHING, file: photo, picture, least: entry.query.least, distinct: entry.query.distinct });
  } catch (error) {
    if (mine === taken) refuse(error);
  }
}

function refuse(error) {
  if (!(error instanceof PhotoProblem)) throw error;
  at("retry").hidden = true;
  at("file").value = "";
  say(PHOTOS[error.what], "bad");
  if (!entry?.query.file) scrollTo({ top: 0 });
}

function transferred(data) {
  if (at("query").hidden) return;
  try {
    const file = photoIn(data);
    if (file) take(file);
    else if (data.types.length) throw new PhotoProblem("other");
  } catch (error) {
    refuse(error);
  }
}

function narrow(condition, on) {
  const where = entry.query.where.filter((other) => other !== condition);
  if (on) where.push(condition);
  go({ where }, { focus: () => [...at("only").querySelectorAll("button")].at(-1) ?? nearQuery() });
}

// -- the box

function place(box) {
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

function draw(event) {
  if (entry.query.file === null || event.button) return;
  const frame = at("frame"), [x, y] = point(event);
  let box = null;
  frame.setPointerCapture(event.pointerId);
  const move = (next) => {
    const [u, v] = point(next);
    place(box = [Math.min(x, u), Math.min(y, v), Math.max(x, u), Math.max(y, v)]);
  };
  const stop = (done) => {
    for (const name of ["pointerup", "pointercancel"]) frame.removeEventListener(name, stop);
    frame.removeEventListener("pointermove", move);
    const [left, top, right, bottom] = box ?? [0, 0, 0, 0];
    if (done.type === "pointercancel" || right - left < STEP || bottom - top < STEP) place(entry.query.box);
    else go({ box });
  };
  frame.addEventListener("pointermove", move);
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, stop);
}

let typed = null, resting = 0; // the box that the keys have moved, searched when they rest
function press(event) {
  if (entry.query.file === null) return;
  const box = typed ?? entry.query.box;
  if (event.key === "Escape" && box) return settle(null);
  if (event.key.toLowerCase() === "b" && !box) typed = [0.25, 0.25, 0.75, 0.75];
  else if (!box || !event.key.startsWith("Arrow")) return;
  else {
    event.preventDefault();
    let [left, top, right, bottom] = box;
    const x = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key] ?? 0, y = { ArrowUp: -STEP, ArrowDown: STEP }[event.key] ?? 0;
    right += x; bottom += y;
    if (!event.shiftKey) { left += x; top += y; }
    if (left < 0 || top < 0 || right > 1.0001 || bottom > 1.0001 || right - left < STEP || bottom - top < STEP) return;
    typed = [left, top, Math.min(1, right), Math.min(1, bottom)];
  }
  place(typed);
  clearTimeout(resting);
  resting = setTimeout(() => settle(typed), REST_MS);
}

// Searches with the box of the keys; an adjusted box takes the place of the one before, in the history too.
function settle(box) {
  unsettle();
  const before = entry.query.box;
  if (box === null && before === null) place(null);
  else go({ box }, { replace: box !== null && before !== null });
}

function unsettle() {
  clearTimeout(resting);
  typed = null;
}

// -- begin

function lock(retry) {
  const wrong = key.get() !== "";
  key.forget();
  again = retry;
  at("query").hidden = at("answer").hidden = catalogue === null;
  at("key-form").hidden = false;
  at("key-text").textContent = wrong ? explain({ code: "no_key" }) : MESSAGES.needKey;
  at("key-text").className = wrong ? "bad" : "quiet";
  say("");
  at("key").select();
  at("key").focus();
}

function unlock(event) {
  event.preventDefault();
  key.set(at("key").value.trim());
  at("key-text").textContent = MESSAGES.loading;
  at("key-text").className = "quiet";
  again?.();
}

// After an answer: the key, if there is one, is right.
function opened() {
  if (at("key-form").hidden) return;
  at("key").value = "";
  at("query").hidden = catalogue === null;
  at("answer").hidden = false;
  checkedFocus(() => { at("key-form").hidden = true; }, nearQuery);
}

async function enter() {
  say(MESSAGES.loading, "busy");
  at("retry").hidden = true;
  try {
    catalogue = await call("v1/catalogue?some=18");
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    return fail(error, enter);
  }
  opened();
  const { images, products, categories } = catalogue;
  at("about").textContent = `${images.toLocaleString()} photos of ${products.toLocaleString()} products`;
  drawCategories.choices(categories, (category) => category !== entry.query.category && go({ category }));
  arrive(history.state);
  begun();
}

const ready = () => catalogue !== null;
history.scrollRestoration = "manual";
at("file").addEventListener("change", () => at("file").files.length && take(at("file").files[0]));
at("again").addEventListener("click", () => go(NOTHING, { focus: () => at("file") }));
at("home").addEventListener("click", (event) => {
  if (!ready() || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(NOTHING);
});
at("whole").addEventListener("click", () => go({ box: null }, { focus: () => at("frame") }));
at("photo").addEventListener("error", () => { at("frame").hidden = entry.query.product !== null; });
at("more").addEventListener("click", () => search(true));
at("retry").addEventListener("click", () => again?.());
at("least").addEventListener("change", () => go({ least: at("least").value }));
at("distinct").addEventListener("change", () => go({ distinct: at("distinct").checked }));
at("frame").addEventListener("pointerdown", draw);
at("frame").addEventListener("keydown", press);
at("key-form").addEventListener("submit", unlock);
addEventListener("popstate", (event) => ready() && back(event));
addEventListener("online", () => again?.());
addEventListener("paste", (event) => {
  if (!event.target.closest?.("input") && [...event.clipboardData.types].some((type) => type !== "text/plain")) transferred(event.clipboardData);
});
addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
addEventListener("dragleave", () => at("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  transferred(event.dataTransfer);
});
enter();
