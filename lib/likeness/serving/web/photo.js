// Photos of people: a file in, one that the service reads out, or a PhotoProblem that names a message.

const LONGEST = 1600, LARGE = 1_500_000;
const SIGNATURES = [
  [/^\xff\xd8/, "photo"], [/^\x89PNG/, "photo"], [/^RIFF....WEBP/s, "photo"], [/^GIF8/, "photo"], [/^BM/, "photo"],
  [/^(II[*+]\0|MM\0[*+])/, "photo"],
  [/^....ftyp.*avi[fs]/s, "avif"], [/^....ftyp.*(hei[cfmsxv]|hev[cx]|mif1|msf1)/s, "heic"], [/^....ftyp/s, "video"],
  [/^\x1aE\xdf\xa3/, "video"],
];
// by the first bytes, for names and types of files often lie; "photo" is what the service reads

export class PhotoProblem extends Error {
  constructor(what) {
    super(what);
    this.what = what;
  }
}

export async function prepare(file) {
  if (!file.size) throw new PhotoProblem("empty");
  const kind = await kindOf(file);
  if (kind === "photo" && file.size < LARGE) return file;
  if (kind === "video") throw new PhotoProblem("video");
  const smaller = await asJpeg(file);
  if (smaller) return smaller;
  if (kind === "photo") return file; // the service says what is wrong with it
  throw new PhotoProblem(kind === "heic" ? "heic" : "other");
}

async function kindOf(file) {
  try {
    const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 32).arrayBuffer()));
    return SIGNATURES.find(([signature]) => signature.test(start))?.[1] ?? "";
  } catch {
    throw new PhotoProblem("gone");
  }
}

// A JPEG of at most 1600 pixels a side, upright and on white; null if the browser cannot open the file.
async function asJpeg(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const drawing = canvas.getContext("2d");
    drawing.fillStyle = "white";
    drawing.fillRect(0, 0, canvas.width, canvas.height);
    drawing.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.92));
    return blob && new File([blob], "photo.jpg", { type: "image/jpeg" });
  } catch {
    return null;
  }
}

// What was dropped or pasted: a file; a PhotoProblem for a picture that stays on its web page; null for anything else.
export function photoIn(data) {
  if (data.files.length) return data.files[0];
  const html = data.getData("text/html"), address = data.getData("text/uri-list");
  if (/<img\b/i.test(html) || address) throw new PhotoProblem("web");
  return null;
}
