"use strict";
/* Classifies in this browser: loads the network, tests itself on golden samples, and answers through a worker.

   const classifier = new ClassifierHere(about);
   await classifier.open(say)           {ok, sentence, rows}: the self-test; `say(sentence, share)` hears of the progress
   await classifier.classify(file, say, signal)    the answer, in the shape of POST /v1/classify; an aborted `signal` ends it

   Files come from beside the page, or from inside it where it is one file (gzip in base64). */
class Refused extends Error {
  again = false;
}

class ClassifierHere {
  constructor(about) {
    this.about = about;
    this.files = document.querySelector("script[data-file]") ? new FilesInside() : new FilesBeside();
    this.calls = new Map();
    this.last = 0;
  }

  async open(say) {
    if (this.files instanceof FilesBeside && location.protocol === "file:") {
      return { ok: false, rows: [], sentence: "Browsers do not let a page on the disk read the files beside it. Put the folder on a web server (to try it: python -m http.server), or export with --one-file." };
    }
    try {
      await this.start(say);
      return await this.test(say);
    } catch (error) {
      return { ok: false, rows: [], sentence: `The network cannot be opened here: ${error.message}` };
    }
  }

  async start(say) {
    const { base, network, wasm: core } = this.about, names = [core, network], loaded = new Map();
    const all = names.reduce((sum, name) => sum + this.about.sizes[name], 0);
    const progress = (name, bytes) => {
      loaded.set(name, bytes);
      const sum = [...loaded.values()].reduce((a, b) => a + b, 0);
      say(`Loading the network: ${megabytes(sum)} of ${megabytes(all)} MB`, sum / all);
    };
    const [wasm, model] = await Promise.all(names.map(name => this.files.bytes(name, bytes => progress(name, bytes))));
    say("Starting the network");
    const { worker, scripts, ort } = await this.files.program(["pixels.js", "self_test.js", "network_worker.js"].map(name => base + name), this.about.ort);
    this.worker = worker;
    this.worker.onmessage = ({ data }) => this.answered(data);
    this.worker.onerror = event => this.failed(event.message || "the worker cannot be started.");
    const given = { scripts, ort, wasm, model, contracts: this.about.contracts };
    await this.call("open", given, [wasm, model]);
  }

  async test(say) {
    const expected = JSON.parse(new TextDecoder().decode(await this.files.bytes("samples/expected.json")));
    const rows = [];
    for (const [i, sample] of expected.samples.entries()) {
      say(`Testing itself: ${i + 1} of ${expected.samples.length} samples`, i / expected.samples.length);
      const file = name => this.files.bytes(`samples/${name}`);
      const resized = await Promise.all(Object.entries(sample.resized).map(async ([name, png]) => [name, await file(png.file)]));
      const { logits, probabilities } = sample;
      const given = { file: await file(sample.file), decoded: await file(sample.decoded.file), resized: Object.fromEntries(resized), logits, probabilities };
      rows.push({ file: sample.file, ...await this.call("test", { sample: given, tolerances: expected.tolerances }) });
    }
    return judged(rows);
  }

  async classify(file, say, signal) {
    const { probabilities, seconds } = await this.call("classify", { file }, [], signal);
    const { classes, threshold, alpha, model } = this.about;
    const order = [...classes.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
    const likely = order.map(k => [classes[k], probabilities[k]]);
    const set = likely.filter(([, p], place) => place === 0 || 1 - p <= threshold).map(([name]) => name);
    const [label, probability] = likely[0];
    return { model, label, probability, set, forced: 1 - probability > threshold, alpha, likely, seconds };
  }

  /* The worker answers a call that was given up too, once it has stopped */
  call(call, given, transferred = [], signal = null) {
    return new Promise((resolve, reject) => {
      const id = this.last += 1;
      this.calls.set(id, { resolve, reject });
      this.worker.postMessage({ id, call, given }, transferred);
      signal?.addEventListener("abort", () => this.worker.postMessage({ id, call: "give up" }), { once: true });
    });
  }

  answered({ id, result, refusal, error }) {
    const { resolve, reject } = this.calls.get(id);
    this.calls.delete(id);
    if (result) resolve(result);
    else reject(refusal ? new Refused(refusal) : new Error(error));
  }

  failed(message) {
    for (const { reject } of this.calls.values()) reject(new Error(message));
    this.calls.clear();
  }
}

const megabytes = bytes => (bytes / 1e6).toFixed(1);
const STEPS = { decoded: "decoding differs", resized: "resizing differs", logits: "logits differ", probabilities: "probabilities differ", answer: "answers differ" };

/* The result of the self-test, and the first step that differs from the export. */
function judged(rows) {
  for (const step of Object.keys(STEPS)) {
    const wrong = rows.filter(row => !row[step].ok);
    if (!wrong.length) continue;
    const apart = Math.max(...wrong.map(row => row[step].max));
    const by = Number.isFinite(apart) ? `by up to ${Number(apart.toPrecision(2))}` : "in size";
    return { ok: false, rows, sentence: `${STEPS[step]} ${by} from the export, in ${wrong.length} of ${rows.length} samples.` };
  }
  return { ok: true, rows, sentence: `all ${rows.length} samples match the export.` };
}

/* Files beside the page. `program` starts the worker, the last of the scripts; it loads the others, and `ort`, itself. */
class FilesBeside {
  async program(names, ort) {
    const [place, ...scripts] = [names.at(-1), ...names.slice(0, -1)].map(name => new URL(name, document.baseURI).href);
    return { worker: new Worker(place), scripts, ort: new URL(ort, document.baseURI).href };
  }

  async bytes(name, progress = () => {}) {
    const response = await fetch(name);
    if (!response.ok) throw new Error(`${name}: the server answers ${response.status}.`);
    const parts = [], reader = response.body.getReader();
    let length = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      progress(length += part.value.length);
    }
    return new Blob(parts).arrayBuffer();
  }
}

/* Files inside the page. A worker of a page on the disk can load nothing, so it gets all scripts at once, and `ort`'s
   bytes. */
class FilesInside {
  async program(names, ort) {
    const texts = await Promise.all(names.map(name => this.bytes(name)));
    const place = URL.createObjectURL(new Blob(texts, { type: "text/javascript" }));
    return { worker: new Worker(place), scripts: [], ort: await this.bytes(ort) };
  }

  async bytes(name, progress = () => {}) {
    const element = [...document.querySelectorAll("script[data-file]")].find(each => each.dataset.file === name);
    const text = atob(element.textContent);
    element.remove();
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const bytes = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
    progress(bytes.byteLength);
    return bytes;
  }
}
