// Requests to the service: a path in, its JSON or a Refusal out; keeps the key of this tab.

const KEY = "likeness-key", TRIES = 4, PATIENCE_S = 2;
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * (seconds || 1)));

export class Refusal extends Error {
  // code, reason and request_id are those of the API's errors; "offline" if there was no answer
  constructor(problem) {
    super(problem.code);
    this.code = problem.code;
    this.reason = problem.reason ?? "";
    this.reference = problem.request_id ?? "";
    this.wait = problem.wait ?? 0;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

// a header takes printable ASCII only, and a key has nothing else
const headers = () => (/^[\x21-\x7e]+$/.test(key.get()) ? { Authorization: `Bearer ${key.get()}` } : {});

export async function call(path, options = {}, patient = true) {
  let response, body;
  try {
    response = await fetch(path, { ...options, headers: headers() });
    body = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ code: "offline" });
  }
  let parsed = null;
  try { parsed = JSON.parse(body); } catch { /* a page of some proxy: the status says enough */ }
  if (response.ok && parsed !== null) return parsed;
  const wait = Number(response.headers.get("Retry-After"));
  if (response.status === 429 && patient && wait <= PATIENCE_S) { // as a page that opens asks twice in a row
    await pause(wait);
    return call(path, options, false);
  }
  const code = response.status < 500 ? "bad_request" : "not_ready";
  throw new Refusal({ code, ...parsed, wait });
}

// Shows a picture; one of this service is fetched with the key, and again after a while if it is refused for now.
export async function loadPicture(image, url) {
  image.dataset.url = url;
  if (!url.startsWith("/v1/images/") || !key.get()) { image.src = url; return; }
  image.removeAttribute("src");
  for (let tries = 1; tries <= TRIES; tries++) {
    const response = await fetch(url, { headers: headers() }).catch(() => null);
    if (image.dataset.url !== url) return; // it is to show another by now
    if (response?.ok) {
      const picture = URL.createObjectURL(await response.blob());
      image.addEventListener("load", () => URL.revokeObjectURL(picture), { once: true });
      image.src = picture;
      return;
    }
    if (response?.status !== 429) return;
    await pause(Number(response.headers.get("Retry-After")));
  }
}
