// Messages for people: a Refusal in, a sentence out that says what happened and what to do.

export const PHOTOS = {
  heic: "This is a HEIC photo, as iPhones take them, and your browser cannot open it. Save it as a JPEG and choose that, or take a screenshot of it.",
  video: "This is a video. Choose a photo instead.",
  other: "This is not a photo. Choose a photo, such as a JPEG or PNG.",
  gone: "This file could not be read. Choose it again, or choose another photo.",
  web: "Pictures cannot be dragged here from this web page. Right-click the picture, choose “Copy image”, and paste it here; or save it first, and choose the file.",
  empty: "This file is empty. Choose another photo.",
  not_an_image: "This file is damaged or not a photo. Choose another one.",
  undecodable: "This photo is damaged. Choose another one, or take a screenshot of it.",
  too_large_bytes: "This photo is too large. Choose a smaller one, or take a screenshot of it.",
  too_many_pixels: "This photo is too large. Choose a smaller one, or take a screenshot of it.",
  bad_box: "This part of the photo cannot be searched. Draw the box again.",
};

const CODES = {
  offline: "There is no connection to the search. Check that you are online, then try again.",
  no_key: "This key does not open the search. Check that it is complete, or ask for a new one.",
  forbidden: "Your key does not allow this search.",
  slow: "The photo took too long to arrive. Try again, or choose a smaller photo.",
  too_large: PHOTOS.too_large_bytes,
  too_many: "There are too many searches right now.",
  internal: "Something went wrong on our side. Try again.",
  coverage: "Too little of the catalogue can be searched right now. Try again in a minute.",
  not_ready: "The search is not available right now. Try again in a minute.",
};
const AGAIN = new Set(["offline", "slow", "too_many", "internal", "coverage", "not_ready"]);

export function explain(refusal, product) {
  const { code, reason, reference, wait } = refusal;
  let text = CODES[code] ?? "This search is not possible. Try another photo, all categories or fewer filters.";
  if (code === "bad_image") text = PHOTOS[reason] ?? PHOTOS.not_an_image;
  if (code === "unknown" && product) text = "This product is not in the catalogue any more.";
  if (code === "too_many") text += wait > 1 ? ` Try again in ${wait} seconds.` : " Try again in a moment.";
  return code === "internal" && reference ? `${text} If it stays so, tell us this number: ${reference}` : text;
}

export const worthAnotherTry = (refusal) => AGAIN.has(refusal.code);

export const MESSAGES = {
  loading: "Loading …",
  searching: "Searching …",
  reading: "Reading the photo …",
  start: "Or start with one of these:",
  empty: "The catalogue has no products yet.",
  reloaded: "Your photo is not kept when the page is loaded again. Choose it once more.",
  box: "Draw a box around what you mean.",
  boxKeys: "Your photo. Draw a box with the pointer, or press B and move it with the arrow keys; with Shift they size it, and Escape removes it.",
  needKey: "Enter the key that you were given.",
  lacking: "Part of the catalogue did not answer, so products may be missing.",
  partly: "This answer may be incomplete.",
};

export const results = (count) => `${count.toLocaleString()} ${count === 1 ? "result" : "results"}`;

export function nothing(query) {
  const tries = [];
  if (query.category !== "all") tries.push("all categories");
  if (query.file) tries.push(query.box ? "the whole photo" : "a box around what you mean");
  if (query.where.length) tries.push("fewer filters");
  if (query.least) tries.push("a lower score in the options");
  return `Nothing looks like this. ${tries.length ? `Try ${tries.join(", or ")}.` : "Try another photo."}`;
}

export const end = (count) => `That is all: ${results(count)}.`;
export const limit = (count) => `These are the nearest ${count.toLocaleString()}. To see others, choose a category or search with one of these.`;
