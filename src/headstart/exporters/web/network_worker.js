"use strict";
/* The worker of a page that classifies in the browser: decodes a file, resizes it, runs the network.

   Messages are {id, call, given}; each gets one answer, {id, result} or {id, refusal} or {id, error}.

     open      {scripts, ort, wasm, model, contracts}    opens the network; `ort` is an address, or the script's bytes
     classify  {file}                                    {logits, probabilities, seconds}
     test      {sample, tolerances}                      one golden sample, step by step (self_test.js)

   {id, call: "give up"} has no answer of its own: the image with that id need no longer be classified, and gets an error
   at the next step.

   Decoding is the browser's, asked to turn the image upright and to leave its colours alone; the rest is ours. Pixels
   are read in strips, since phones limit the size of a canvas. */
const STRIP_PIXELS = 1 << 22;
const wanted = new Set();
let ort, session, contracts;

/* What cannot be classified, and why, in a sentence for the user. */
class Refusal extends Error {}

async function open({ scripts, ort: given, wasm, model, contracts: described }) {
  importScripts(...scripts);
  contracts = described;
  ort = await import(typeof given === "string" ? given : URL.createObjectURL(new Blob([given], { type: "text/javascript" })));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasm;
  ort.env.logLevel = "error";
  session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  return { version: ort.env.versions.web };
}

async function decoded(file) {
  await checkKind(file);
  const options = { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" };
  try {
    return await createImageBitmap(file, options);
  } catch {
    throw new Refusal("This browser cannot decode the image: it is damaged, or of a kind that browsers do not know, such as TIFF. Save it as JPEG or PNG.");
  }
}

/* Refuse what browsers decode without a word, but differently. */
async function checkKind(file) {
  if (file.size === 0) throw new Refusal("The file is empty.");
  const bytes = new Uint8Array(await file.arrayBuffer().catch(() => {
    throw new Refusal("The file cannot be read: it is a folder, or it is no longer there.");
  }));
  if (bytes[0] === 0xff && bytes[1] === 0xd8) checkJpeg(bytes);
  else if (text(bytes, 0) === "RIFF" && text(bytes, 8) === "WEBP") checkWebp(bytes);
  else if (text(bytes, 0) === "\x89PNG") await checkPng(bytes);
}

function checkJpeg(bytes) {
  const { channels, after, exif, xmp } = jpegFrame(bytes);
  if (channels === 4) throw new Refusal("The JPEG has CMYK colours, which browsers convert differently. Save it as RGB.");
  if (channels && !hasEnd(bytes, after)) throw new Refusal("The JPEG has no end: it was not copied completely.");
  checkXmp("JPEG", exif, xmp);
}

/* What a JPEG's headers say: how many channels it has (0 if there is no frame header), where the frame header ends, and
   its EXIF and XMP. */
function jpegFrame(bytes) {
  let at = 2, exif = NONE, xmp = NONE;
  while (at + 9 < bytes.length && bytes[at] === 0xff) {
    const marker = bytes[at + 1], end = at + 2 + (bytes[at + 2] << 8 | bytes[at + 3]);
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return { channels: bytes[at + 9], after: at + 10, exif, xmp };
    const content = marker === 0xe1 ? bytes.subarray(at + 4, end) : NONE;
    if (exif === NONE && begins(content, "Exif\0\0")) exif = content;
    if (begins(content, XMP_MARK)) xmp = content;
    at = marker === 0xff ? at + 1 : end;
  }
  return { channels: 0, after: at, exif, xmp };
}

/* Whether the end marker comes after the frame header; other data may follow it. */
function hasEnd(bytes, after) {
  for (let at = bytes.length - 2; at >= after; at--) if (bytes[at] === 0xff && bytes[at + 1] === 0xd9) return true;
  return false;
}

/* Browsers do not turn a WebP as its EXIF says. */
function checkWebp(bytes) {
  const view = new DataView(bytes.buffer), found = { "EXIF": NONE, "XMP ": NONE };
  for (let at = 12; at + 8 <= bytes.length;) {
    const size = view.getUint32(at + 4, true), kind = text(bytes, at);
    if (kind in found) found[kind] = bytes.subarray(at + 8, at + 8 + size);
    at += 8 + size + size % 2;
  }
  if (isTurn(orientation(found["EXIF"]))) {
    throw new Refusal(notUpright("WebP", "EXIF data"));
  }
  checkXmp("WebP", found["EXIF"], found["XMP "]);
}

async function checkPng(bytes) {
  const view = new DataView(bytes.buffer);
  let exif = NONE, profile = NONE, xmp = NONE;
  for (let at = 8; at + 12 <= bytes.length;) {
    const size = view.getUint32(at), kind = text(bytes, at + 4), content = bytes.subarray(at + 8, at + 8 + size);
    if (kind === "eXIf") exif = content;
    if (kind === "iTXt" && begins(content, PNG_XMP)) xmp = await pngText(content, PNG_XMP.length);
    if (kind === "iTXt" && begins(content, PNG_PROFILE)) profile = fromHex(await pngText(content, PNG_PROFILE.length));
    if (kind === "tEXt" && begins(content, PNG_PROFILE)) profile = fromHex(content.subarray(PNG_PROFILE.length));
    if (kind === "zTXt" && begins(content, PNG_PROFILE)) profile = fromHex(await inflated(content.subarray(PNG_PROFILE.length + 1)));
    at += 12 + size;
  }
  const turn = orientation(exif) === null ? orientation(profile) : null;
  if (turn !== null && isTurn(turn)) throw new Refusal(notUpright("PNG", "text chunk for EXIF data"));
  if (turn === null) checkXmp("PNG", exif, xmp);
}

/* EXIF data as ImageMagick writes it into a text chunk: an empty line, its name and its length, then digits. */
function fromHex(profile) {
  const digits = latin(profile).split("\n").slice(3).join("");
  if (!/^(?:[0-9a-f]{2})*$/i.test(digits)) return NONE;
  return Uint8Array.from({ length: digits.length / 2 }, (_, i) => parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/* The text of an iTXt chunk: keyword, compression flag and method, language, translated keyword, text. */
async function pngText(content, flag) {
  const language = flag + 2, translated = content.indexOf(0, language) + 1, at = content.indexOf(0, translated) + 1;
  const packed = content.subarray(at);
  return content[flag] === 1 ? inflated(packed) : packed;
}

/* What was compressed; nothing if it is damaged. */
async function inflated(packed) {
  const unpacked = new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate")));
  return new Uint8Array(await unpacked.arrayBuffer().catch(() => new ArrayBuffer(0)));
}

/* Refuse an image that is turned by its XMP: `predict` heeds it where EXIF says nothing, browsers never do. */
function checkXmp(kind, exif, xmp) {
  if (orientation(exif) !== null) return;
  const found = /tiff:Orientation(?:="|>)([1-8])/.exec(latin(xmp));
  if (found && isTurn(Number(found[1]))) {
    throw new Refusal(notUpright(kind, "XMP data"));
  }
}

const notUpright = (kind, place) => `The ${kind} is not stored upright, and browsers ignore the orientation in its ${place}. Save it upright.`;

const isTurn = orientation => orientation >= 2 && orientation <= 8;

/* The orientation in the first directory of an EXIF block, as `predict` reads it; null if it has none. */
function orientation(exif) {
  while (begins(exif, "Exif\0\0")) exif = exif.subarray(6);
  const little = begins(exif, "II");
  if (!little && !begins(exif, "MM")) return null;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  try {
    const at = view.getUint32(4, little), tags = view.getUint16(at, little);
    for (let tag = at + 2; tag < at + 2 + 12 * tags; tag += 12) {
      if (view.getUint16(tag, little) !== 0x112) continue;
      const read = { 1: "getUint8", 3: "getUint16", 4: "getUint32" }[view.getUint16(tag + 2, little)];
      return read && view.getUint32(tag + 4, little) === 1 ? view[read](tag + 8, little) : null;
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return null;
}

const NONE = new Uint8Array(0), XMP_MARK = "http://ns.adobe.com/xap/1.0/\0", PNG_XMP = "XML:com.adobe.xmp\0", PNG_PROFILE = "Raw profile type exif\0";
const latin = bytes => new TextDecoder("latin1").decode(bytes);
const begins = (bytes, mark) => latin(bytes.subarray(0, mark.length)) === mark;
const text = (bytes, at) => String.fromCharCode(...bytes.subarray(at, at + 4));

/* Strips of a bitmap's rows: [first row, RGBA on white]. */
function* strips(bitmap) {
  const { width, height } = bitmap, most = Math.max(1, Math.min(height, Math.floor(STRIP_PIXELS / width)));
  const pen = new OffscreenCanvas(width, most).getContext("2d", { willReadFrequently: true });
  pen.globalCompositeOperation = "copy";
  pen.imageSmoothingEnabled = false;
  for (let first = 0; first < height; first += most) {
    const rows = Math.min(most, height - first);
    pen.drawImage(bitmap, 0, first, width, rows, 0, 0, width, rows);
    yield [first, headstartPixels.putOnWhite(pen.getImageData(0, 0, width, rows).data)];
  }
}

/* What each input of the network sees of an image: {input: Uint8Array}. `look` is shown the strips as well. */
function resized(bitmap, look = () => {}) {
  const makers = Object.entries(contracts).map(([name, contract]) =>
    [name, new headstartPixels.PixelMaker(contract, bitmap.width, bitmap.height)]);
  for (const [first, rgba] of strips(bitmap)) {
    look(first, rgba);
    for (const [, maker] of makers) maker.addRows(first, rgba, 4);
  }
  return Object.fromEntries(makers.map(([name, maker]) => [name, maker.finish()]));
}

async function run(pixels) {
  const feeds = {};
  for (const [name, bytes] of Object.entries(pixels)) {
    const side = contracts[name].image_size;
    feeds[name] = new ort.Tensor("uint8", bytes, [1, side, side, 3]);
  }
  const { logits, probabilities } = await session.run(feeds);
  return { logits: [...logits.data], probabilities: [...probabilities.data] };
}

/* Let messages in; then fail if one of them was that the image is no longer wanted. */
async function checkWanted(id) {
  await new Promise(done => setTimeout(done));
  if (!wanted.has(id)) throw new Error("The image is no longer wanted.");
}

async function classify({ file }, id) {
  const start = performance.now();
  const bitmap = await decoded(file);
  await checkWanted(id);
  const pixels = resized(bitmap);
  bitmap.close();
  await checkWanted(id);
  const read = performance.now();
  const answer = await run(pixels), done = performance.now();
  const seconds = { decode: (read - start) / 1000, network: (done - read) / 1000, total: (done - start) / 1000 };
  return { ...answer, seconds };
}

const CALLS = { open, classify, test: given => headstartSelfTest(given, { decoded, strips, resized, run }) };

onmessage = async ({ data: { id, call, given } }) => {
  if (call === "give up") {
    wanted.delete(id);
    return;
  }
  wanted.add(id);
  try {
    postMessage({ id, result: await CALLS[call](given, id) });
  } catch (error) {
    postMessage(error instanceof Refusal ? { id, refusal: error.message } : { id, error: String(error?.message ?? error) });
  }
  wanted.delete(id);
};
