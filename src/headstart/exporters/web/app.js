"use strict";
/* The page: images come in, a card per image goes out. It knows nothing of how images are classified: a classifier
   (classify_here.js, classify_there.js) does. Every text that comes from data is set as text, never as markup. */
(() => {
  const by = id => document.getElementById(id);
  const about = JSON.parse(by("about").textContent);
  const classifier = about.mode === "here" ? new ClassifierHere(about) : new ClassifierThere(about);
  const MOST_BARS = 5, MOST_IN_SET = 8;

  /* Making elements */

  function made(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value === true) element.setAttribute(name, "");
      else if (value !== false) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  const named = name => made("bdi", {}, shown(name));
  const shown = name => name.replace(/[\u0000-\u001f\u007f]/g, " ").trim() || "(no name)";
  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}\u202f%`;
  /* As `percent`, but 100 % and 0 % are for what is certain */
  const chance = p => p < 1 && p >= 0.9995 ? `>\u202f99.9\u202f%` : p > 0 && p < 0.0005 ? `<\u202f0.1\u202f%` : percent(p);
  const aloud = text => { by("aloud").textContent = text; };

  function listed(elements) {
    return elements.flatMap((each, i) => i === 0 ? [each] : [i === elements.length - 1 ? " or " : ", ", each]);
  }

  /* Theme */

  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
  function nameTheme() {
    by("theme").textContent = isDark() ? "Light" : "Dark";
    by("theme").setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  }
  by("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  dark.addEventListener("change", nameTheme);
  by("theme").hidden = false;
  nameTheme();

  /* The state of the classifier */

  let state = "wait";

  function say(sentence, share) {
    by("said").textContent = sentence;
    by("progress").hidden = share === undefined;
    if (share !== undefined) by("progress").value = share;
  }

  function decide({ ok, sentence, rows }) {
    state = ok ? "good" : "bad";
    by("state").dataset.state = state;
    by("state").hidden = !sentence;
    say(!rows.length ? sentence : ok ? `Self-test passed: ${sentence}` : `Self-test failed: ${sentence} No image is classified here.`);
    by("details").hidden = !rows.length;
    if (rows.length) showTests(rows);
    for (const id of ["choose", "photograph"]) by(id).disabled = !ok;
    by("drop").classList.toggle("off", !ok);
    if (!ok) for (const card of [...waiting.splice(0)]) card.fail("Not classified, since the self-test failed.", false);
    next();
  }

  function showTests(rows) {
    const steps = ["decoded", "resized", "logits", "probabilities", "answer"];
    const heads = ["sample", ...steps].map(text => made("th", { scope: "col" }, text));
    const shortly = x => !Number.isFinite(x) ? "size" : x === 0 ? "equal" : x < 0.01 ? x.toExponential(1) : String(Number(x.toPrecision(2)));
    const figure = ({ max, ok }) => made("td", { class: ok ? "" : "wrong" }, `${ok ? "" : "differs: "}${shortly(max)}`);
    const lines = rows.map(row => made("tr", {}, made("th", { scope: "row" }, row.file), ...steps.map(step => figure(row[step]))));
    by("tests").replaceChildren(made("caption", {}, "The largest difference of each step: levels of 255 for pixels."), made("thead", {}, made("tr", {}, ...heads)), made("tbody", {}, ...lines));
  }

  /* Cards: one per image */

  const waiting = [], cards = new Set();
  let running = 0;

  function next() {
    while (state === "good" && waiting.length && running < about.parallel && by("token").hidden) work(waiting.shift());
  }

  async function work(card) {
    running += 1;
    try {
      card.wait("Classifying");
      const answer = await classifier.classify(card.file, text => card.wait(text), card.removed.signal);
      if (cards.has(card)) card.show(answer);
    } catch (error) {
      if (cards.has(card)) failed(card, error);
    }
    running -= 1;
    next();
  }

  function failed(card, error) {
    if (about.mode === "there" && error instanceof TokenWanted) {
      waiting.unshift(card);
      card.wait("Waiting for the token");
      if (error.sent === classifier.token) askToken();
    } else card.fail(error.message, !(error instanceof Refused) || error.again);
  }

  function askToken() {
    if (!by("token").hidden) return;
    by("token").hidden = false;
    by("token-said").textContent = classifier.token ? "The server refused that token." : "";
    by("secret").value = "";
    by("secret").focus();
  }

  by("token").addEventListener("submit", event => {
    event.preventDefault();
    const token = by("secret").value.trim();
    if (!/^[!-~]+$/.test(token)) {
      by("token-said").textContent = "A token has only ASCII characters and no spaces. Paste it again, or type it.";
      by("secret").select();
      return;
    }
    classifier.token = token;
    by("token").hidden = true;
    next();
  });

  let count = 0;

  class Card {
    constructor(file, name) {
      this.file = file;
      this.name = name;
      this.id = `card-${count += 1}`;
      this.removed = new AbortController();
      this.url = URL.createObjectURL(file);
      this.image = made("img", { src: this.url, alt: "", decoding: "async", loading: "lazy", onerror: () => this.noPreview() });
      this.frame = made("div", { class: "frame" }, this.image);
      this.figure = made("div", { class: "photo" }, this.frame);
      this.body = made("div", { class: "answer" });
      const remove = made("button", { type: "button", class: "remove", "aria-label": `Remove ${name}`, onclick: () => this.remove() }, "\u00d7");
      this.element = made("li", {}, made("article", { class: "card", "aria-labelledby": this.id }, this.figure, this.body, remove));
      this.wait("Waiting");
      cards.add(this);
    }

    fileLine() { return made("p", { class: "file" }, made("bdi", {}, this.name)); }

    wait(text) {
      this.body.replaceChildren(made("h3", { id: this.id, class: "busy" }, text, made("span", { class: "dots", "aria-hidden": "true" })), this.fileLine());
    }

    fail(sentence, again) {
      const retry = made("button", { type: "button", onclick: () => { this.wait("Waiting"); this.element.querySelector(".remove").focus(); waiting.push(this); next(); } }, "Try again");
      this.body.replaceChildren(
        made("h3", { id: this.id }, "No answer"), made("p", { class: "refused" }, sentence), this.fileLine(),
        ...again && state === "good" ? [made("p", { class: "actions" }, retry)] : []);
      aloud(`${this.name}: ${sentence}`);
    }

    show(answer) {
      this.answer = answer;
      sayPromise(answer);
      const head = made("h3", { id: this.id, class: "label" }, named(answer.label), " ", made("span", { class: "sure" }, chance(answer.probability)));
      this.body.replaceChildren(head, this.fileLine(), setSentence(answer), bars(answer), ...this.more());
      this.image.alt = `${this.name}, seen as ${shown(answer.label)}`;
      aloud(`${this.name}: ${shown(answer.label)}, ${chance(answer.probability)}. ${setSentence(answer).textContent}`);
    }

    more() {
      if (!about.explain) return [this.took()];
      this.explainer = made("button", { type: "button", onclick: () => this.explain() }, "Explain");
      this.explained = made("div", { class: "explained" });
      return [made("p", { class: "actions" }, this.explainer, made("span", { class: "muted" }, "heat map and similar training images")), this.explained, this.took()];
    }

    took() {
      const { seconds } = this.answer, ms = x => `${Math.max(1, Math.round(1000 * x))}\u202fms`;
      return made("p", { class: "took" }, `${ms(seconds.total)}: decoding and resizing ${ms(seconds.decode)}, network ${ms(seconds.network)}`);
    }

    async explain() {
      this.explainer.disabled = true;
      const said = made("p", { class: "muted", role: "status" }, "Explaining; the first time takes some seconds");
      this.explained.replaceChildren(said);
      try {
        const explanation = await classifier.explain(this.file, text => { said.textContent = text; }, this.removed.signal);
        if (!cards.has(this)) return;
        this.explainer.parentElement.remove();
        this.showHeat(explanation);
        this.explained.replaceChildren(...explanationParts(explanation));
        aloud(`${this.name}: explained.`);
      } catch (error) {
        said.textContent = error.message;
        said.className = "refused";
        this.explainer.disabled = false;
      }
    }

    /* The map lies on the server's image: browsers do not decode every file, nor turn each as the server does */
    showHeat({ heat, image, seen, label }) {
      if (!heat) return;
      this.image.src = image;
      this.frame.replaceChildren(this.image, made("img", { class: "heat", src: heat, alt: "" }));
      const part = Math.max(seen[0], seen[1], 1 - seen[2], 1 - seen[3]) > 0.01;
      if (part) this.frame.append(frameOf(seen));
      const toggle = made("button", { type: "button", class: "quiet", "aria-pressed": "true", onclick: () => {
        const on = toggle.getAttribute("aria-pressed") !== "true";
        toggle.setAttribute("aria-pressed", String(on));
        this.frame.classList.toggle("plain", !on);
      } }, "Heat map");
      const said = ["The brighter, the more it speaks for ", named(label), part ? ". The frame is what the network sees." : "."];
      this.figure.append(toggle, made("p", { class: "muted" }, ...said));
    }

    noPreview() {
      this.frame.replaceChildren(made("span", { class: "absent" }, "no preview in this browser"));
    }

    /* Stop what is being done for the card */
    end() {
      cards.delete(this);
      if (waiting.includes(this)) waiting.splice(waiting.indexOf(this), 1);
      this.removed.abort();
      URL.revokeObjectURL(this.url);
    }

    remove() {
      const after = (this.element.nextElementSibling || this.element.previousElementSibling)?.querySelector(".remove");
      this.end();
      this.element.remove();
      shownCards();
      (after || by("choose")).focus();
    }
  }

  function frameOf([left, top, right, bottom]) {
    const frame = made("span", { class: "seen", "aria-hidden": "true" }), clip = x => Math.min(1, Math.max(0, x));
    Object.assign(frame.style, { left: percentage(clip(left)), top: percentage(clip(top)), right: percentage(1 - clip(right)), bottom: percentage(1 - clip(bottom)) });
    return frame;
  }

  const percentage = share => `${100 * share}%`;

  /* The prediction set in words */
  function setSentence({ set, likely, forced }) {
    const names = set.slice(0, MOST_IN_SET).map(named), more = set.length - MOST_IN_SET;
    if (more > 0) names.push(more === 1 ? "1 other" : `${more} others`);
    const parts = forced
      ? [...names, ". It is only the likeliest class: the right class is usually more probable."]
      : set.length === likely.length && set.length > 2
        ? [`any of the ${set.length} classes.`]
        : [...listed(names), "."];
    return made("p", { class: "set", "data-size": set.length === 1 && !forced ? "one" : "several" }, "Prediction set: ", ...parts);
  }

  /* What prediction sets promise: nothing about one image */
  function sayPromise({ alpha }) {
    const rate = `${Number((100 * (1 - alpha)).toFixed(4))}\u202f%`;
    by("promise").textContent = `Prediction sets are chosen so that at least ${rate} of them contain the right class: on average over images like the validation images, not for each single image.`;
  }

  function bars({ likely, set }) {
    const inSet = new Set(set), list = made("ol", { class: "bars", "aria-label": "Probabilities" });
    const row = ([name, p]) => {
      const fill = made("span", { class: "fill" });
      fill.style.width = percentage(p);
      return made("li", { class: inSet.has(name) ? "in" : "" }, made("span", { class: "name" }, named(name)), made("span", { class: "track", "aria-hidden": "true" }, fill), made("span", { class: "value" }, chance(p)));
    };
    list.append(...likely.slice(0, MOST_BARS).map(row));
    if (likely.length <= MOST_BARS) return list;
    const rest = made("button", { type: "button", class: "quiet", onclick: () => {
      list.append(...likely.slice(MOST_BARS).map(row));
      list.children[MOST_BARS].tabIndex = -1;
      list.children[MOST_BARS].focus();
      rest.remove();
    } }, `Show all ${likely.length} classes`);
    return made("div", {}, list, rest);
  }

  function explanationParts({ note, nearest, label }) {
    const parts = note ? [made("p", { class: "muted" }, note)] : [];
    if (!nearest.length) return parts;
    const each = ({ label: name, cosine, image }) => made("li", {},
      image ? made("img", { src: image, alt: `Training image of ${shown(name)}` }) : made("span", { class: "absent" }, "no image"),
      made("span", { class: name === label ? "same" : "other" }, named(name)), made("span", { class: "muted" }, cosine.toFixed(3)));
    const head = made("h4", {}, "Most similar training images ", made("span", { class: "muted" }, "with cosine similarity"));
    return [...parts, head, made("ol", { class: "near" }, ...nearest.map(each))];
  }

  /* Images come in */

  function shownCards() {
    const any = by("cards").children.length > 0;
    by("results").hidden = !any;
    by("drop").classList.toggle("small", any);
  }

  function add(files) {
    if (state === "bad" || !files.length) return;
    const added = [...files].map(file => new Card(file, file.name || "pasted image"));
    by("cards").prepend(...added.map(card => card.element));
    waiting.push(...added);
    shownCards();
    next();
  }

  by("choose").addEventListener("click", () => by("files").click());
  by("files").addEventListener("change", () => { add(by("files").files); by("files").value = ""; });
  by("clear").addEventListener("click", () => {
    for (const card of [...cards]) card.end();
    by("cards").replaceChildren();
    shownCards();
    by("choose").focus();
  });

  let inside = 0;
  const hasFiles = event => [...event.dataTransfer?.types ?? []].includes("Files");
  const mark = on => by("drop").classList.toggle("over", on && state !== "bad");
  addEventListener("dragenter", event => { if (hasFiles(event)) { inside += 1; mark(true); } });
  addEventListener("dragleave", event => { if (hasFiles(event) && (inside -= 1) <= 0) { inside = 0; mark(false); } });
  addEventListener("dragover", event => { if (hasFiles(event)) event.preventDefault(); });
  addEventListener("drop", event => {
    inside = 0;
    mark(false);
    if (!hasFiles(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
  addEventListener("paste", event => { if (event.clipboardData?.files.length) add(event.clipboardData.files); });

  /* The camera: off until somebody asks for it, and off again when its window closes */

  const camera = by("camera"), video = by("video");
  let taken = 0, opened = 0;

  async function startCamera() {
    const turn = opened += 1, isOpen = () => camera.open && turn === opened;
    by("camera-said").textContent = "Waiting for the camera";
    by("take").disabled = true;
    camera.showModal();
    try {
      const wanted = { video: { facingMode: "environment", width: { ideal: 1920 }, height: { ideal: 1440 } } };
      const stream = await navigator.mediaDevices.getUserMedia(wanted);
      if (!isOpen()) return stop(stream);
      video.srcObject = stream;
      await video.play();
      by("camera-said").textContent = "";
      by("take").disabled = false;
      by("take").focus();
    } catch (error) {
      if (!isOpen()) return;
      by("camera-said").textContent = error.name === "NotAllowedError" ? "The browser blocked the camera; allow it in its settings." : "No camera was found.";
    }
  }

  const stop = stream => { for (const track of stream?.getTracks() ?? []) track.stop(); };

  function take() {
    const canvas = made("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob(blob => {
      add([new File([blob], `photograph ${taken += 1}`, { type: "image/png" })]);
      camera.close();
    }, "image/png");
  }

  by("photograph").addEventListener("click", startCamera);
  by("take").addEventListener("click", take);
  by("close").addEventListener("click", () => camera.close());
  camera.addEventListener("close", () => { stop(video.srcObject); video.srcObject = null; by("photograph").focus(); });
  by("photograph").hidden = !navigator.mediaDevices?.getUserMedia;

  /* Start */

  by("privacy").textContent = about.mode === "here"
    ? "Your images stay here: they are classified in this browser, and sent to nobody."
    : `Your images are sent to ${location.host}, which classifies them and keeps none.`;
  classifier.open(say).then(decide);
})();
