"use strict";
/* Asks the server that this page came from.

   const classifier = new ClassifierThere(about);
   await classifier.open()                       {ok, sentence}
   await classifier.classify(file, say, signal)  the answer of POST /v1/classify; `say(sentence)` hears of waiting
   await classifier.explain(file, say, signal)   that of POST /v1/explain; an aborted `signal` ends either

   A server that is full says when to come back (503 with Retry-After), and is asked again then. Refusals come with the
   server's own sentence. A token, where the server wants one, stays in this page's memory. */
class Refused extends Error {
  constructor(message, again) {
    super(message);
    this.again = again;
  }
}
class TokenWanted extends Error {
  constructor(message, sent) {
    super(message);
    this.sent = sent;
  }
}

const TRIES = 10;

class ClassifierThere {
  constructor(about) {
    this.about = about;
    this.token = "";
  }

  async open() { return { ok: true, rows: [], sentence: "" }; }

  async classify(file, say, signal) {
    const answer = await this.ask("v1/classify", file, say, signal);
    const likely = Object.entries(answer.probabilities).sort(([, p], [, q]) => q - p);
    return { ...answer, likely };
  }

  async explain(file, say, signal) { return this.ask("v1/explain", file, say, signal); }

  async ask(place, file, say, signal) {
    for (let tries = 1; ; tries++) {
      const sent = this.token, response = await this.send(place, file, signal);
      if (response.ok) return response.json();
      const { error: message, reason } = await refusal(response);
      if (response.status === 401) throw new TokenWanted(message, sent);
      if (response.status !== 503 || tries === TRIES) throw new Refused(message, response.status >= 500 || response.status === 408 || reason === "too_slow");
      const seconds = Math.min(60, Math.max(0.2, Number(response.headers.get("Retry-After")) || 1));
      say(`The server is busy: asking again in ${Math.ceil(seconds)} s`);
      await new Promise(resolve => {
        if (signal.aborted) resolve();
        setTimeout(resolve, seconds * 1000);
        signal.addEventListener("abort", resolve, { once: true });
      });
    }
  }

  async send(place, file, signal) {
    const headers = { "Content-Type": "application/octet-stream" };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    try {
      return await fetch(place, { method: "POST", body: file, headers, signal, cache: "no-store" });
    } catch {
      throw new Refused("The server does not answer, or the file can no longer be read.", true);
    }
  }
}

async function refusal(response) {
  const unknown = { error: `The server answers ${response.status}.`, reason: "" };
  try {
    const { error, reason } = await response.json();
    return { error: typeof error === "string" && error || unknown.error, reason };
  } catch {
    return unknown;
  }
}
