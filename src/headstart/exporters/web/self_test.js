"use strict";
/* The self-test of a page that classifies in the browser: golden samples, step by step, as verify.py does it.

   headstartSelfTest({sample, tolerances}, steps)     {decoded, resized, logits, probabilities, answer}, each {max, mean, ok}

   A sample has its file, the pixels that must come out (PNG files), and the expected answer. Each step gets what the step
   before should have made, so that the first one that differs is the one that is wrong. The answer is that of the whole
   way, from the file on. */
(() => {
  const ANSWER = 0.01; /* how far a probability may be off where the decoder rounds otherwise */

  async function pixelsOf(steps, bytes) {
    const bitmap = await steps.decoded(new Blob([bytes])), { width, height } = bitmap;
    const rgb = new Uint8Array(width * height * 3);
    for (const [first, rgba] of steps.strips(bitmap)) copyRgb(rgba, rgb, first * width * 3);
    return { bitmap, width, height, rgb };
  }

  function copyRgb(rgba, rgb, out) {
    for (let i = 0; i < rgba.length; i += 4, out += 3) {
      rgb[out] = rgba[i];
      rgb[out + 1] = rgba[i + 1];
      rgb[out + 2] = rgba[i + 2];
    }
  }

  function compared(found, expected, { max, mean = Infinity }) {
    if (found.length !== expected.length) return { max: Infinity, mean: Infinity, ok: false };
    let most = 0, sum = 0;
    for (let i = 0; i < found.length; i++) {
      const apart = Math.abs(found[i] - expected[i]);
      sum += apart;
      if (!(apart <= most)) most = apart;
    }
    return { max: most, mean: sum / found.length, ok: most <= max && sum / found.length <= mean };
  }

  const isEqual = (a, b) => a.length === b.length && a.every((value, i) => value === b[i]);
  const worse = (a, b) => ({ max: Math.max(a.max, b.max), mean: Math.max(a.mean, b.mean), ok: a.ok && b.ok });

  globalThis.headstartSelfTest = async ({ sample, tolerances }, steps) => {
    const own = await pixelsOf(steps, sample.file), meant = await pixelsOf(steps, sample.decoded);
    const same = own.width === meant.width && own.height === meant.height;
    const found = { decoded: compared(own.rgb, same ? meant.rgb : [], tolerances.decoded) };
    const resized = steps.resized(meant.bitmap), expected = {};
    for (const [name, png] of Object.entries(sample.resized)) expected[name] = (await pixelsOf(steps, png)).rgb;
    found.resized = Object.keys(expected)
      .map(name => compared(resized[name], expected[name], tolerances.resized)).reduce(worse);
    const meantAnswer = await steps.run(expected), { logits, probabilities } = meantAnswer;
    found.logits = compared(logits, sample.logits, tolerances.logits);
    found.probabilities = compared(probabilities, sample.probabilities, tolerances.probabilities);
    const seen = steps.resized(own.bitmap), equal = Object.keys(expected).every(name => isEqual(seen[name], expected[name]));
    const answer = equal ? meantAnswer : await steps.run(seen);
    found.answer = compared(answer.probabilities, sample.probabilities, { max: ANSWER });
    for (const each of [own, meant]) each.bitmap.close();
    return found;
  };
})();
