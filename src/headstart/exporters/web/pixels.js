"use strict";
/* The pixel contract (docs/pixels.md) in JavaScript: from upright pixels of any size to the square that a network sees.

   const maker = new PixelMaker(contract, width, height);    contract: as preprocess.json has it
   maker.addRows(first, rows, channels);                     bytes of whole rows, 3 or 4 channels (a fourth is skipped)
   maker.finish()                                            Uint8Array, image_size x image_size x 3

   The result equals Pillow's byte for byte: each axis is resized on its own, across first, with weights rounded to whole
   multiples of 2^-22, and the sums rounded to whole numbers. Rows can be given in strips, from the top down, so that
   nobody has to hold all of a large photograph: from `maker.begin` to `maker.end` they are needed, others are ignored.

   Runs in a page, in a worker and in node, and knows nothing of any of them. 500 x 375 pixels take about 2 ms. */
(() => {
  const PRECISION_BITS = 22, HALF = 1 << (PRECISION_BITS - 1), ONE = 1 << PRECISION_BITS;

  const sinc = x => x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
  const FILTERS = {
    bilinear: { support: 1, weight: x => Math.max(0, 1 - Math.abs(x)) },
    bicubic: {
      support: 2,
      weight: x => {
        x = Math.abs(x);
        if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
        return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
      },
    },
    lanczos: { support: 3, weight: x => x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0 },
  };

  /* Round to whole numbers, halves to even, as Python does. */
  const rounded = x => {
    const below = Math.floor(x), rest = x - below;
    return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
  };

  /* What happens along an axis: `length` pixels, of which `begin` to `end` become `count`, with `before` others before
     them. */
  class Stretch {
    constructor(length, begin, end, count, before = 0) {
      Object.assign(this, { length, begin, end, count, before });
      this.scale = Math.fround(Math.fround(end) - Math.fround(begin)) / count;
      this.keepsAll = begin === 0 && end === length && count === length;
    }
  }

  function stretches(contract, width, height) {
    const side = contract.image_size, longer = Math.max(width, height), shorter = Math.min(width, height);
    return [width, height].map(length => {
      if (contract.resize === "squash") return new Stretch(length, 0, length, side);
      if (contract.resize === "pad") {
        const count = Math.max(1, rounded(length * (side / longer)));
        return new Stretch(length, 0, length, count, Math.floor((side - count) / 2));
      }
      const resized = Math.floor(contract.shorter_side * length / shorter), start = rounded((resized - side) / 2);
      return new Stretch(length, start * length / resized, Math.min(length, (start + side) * length / resized), side);
    });
  }

  /* The first input pixel of each output pixel, how many there are, and their weights * 2^22 (`taps` for each). */
  function filterWeights(axis, filter) {
    const widened = Math.max(axis.scale, 1), reach = filter.support * widened, inverse = 1 / widened;
    const taps = Math.ceil(reach) * 2 + 1, begin = Math.fround(axis.begin);
    const first = new Int32Array(axis.count), counts = new Int32Array(axis.count);
    const weights = new Int32Array(axis.count * taps), exact = new Float64Array(taps);
    for (let at = 0; at < axis.count; at++) {
      const centre = begin + (at + 0.5) * axis.scale;
      const from = Math.max(0, Math.trunc(centre - reach + 0.5));
      const count = Math.min(axis.length, Math.trunc(centre + reach + 0.5)) - from;
      let sum = 0;
      for (let k = 0; k < count; k++) sum += exact[k] = filter.weight((k + from - centre + 0.5) * inverse);
      for (let k = 0; k < count; k++) {
        const weight = exact[k] / sum * ONE;
        weights[at * taps + k] = Math.trunc(weight + (weight < 0 ? -0.5 : 0.5));
      }
      first[at] = from;
      counts[at] = count;
    }
    return { first, counts, weights, taps };
  }

  /* The same with one pixel of weight 1 each, or none where nothing changes. Positions are added up, as Pillow does. */
  function pickedPixels(axis) {
    const first = new Int32Array(axis.count), counts = new Int32Array(axis.count).fill(1);
    let position = Math.fround(axis.begin) + axis.scale * 0.5;
    for (let at = 0; at < axis.count; at++, position += axis.scale) {
      first[at] = axis.keepsAll ? at : Math.min(Math.trunc(position), axis.length - 1);
    }
    return { first, counts, weights: new Int32Array(axis.count).fill(ONE), taps: 1 };
  }

  const weightsOf = (axis, filter) => filter && !axis.keepsAll ? filterWeights(axis, filter) : pickedPixels(axis);

  class PixelMaker {
    constructor(contract, width, height) {
      const filter = FILTERS[contract.interpolation];
      if (!filter && contract.interpolation !== "nearest") throw new Error(`no filter ${contract.interpolation}`);
      this.contract = contract;
      [this.across, this.down] = stretches(contract, width, height);
      this.width = width;
      this.columns = weightsOf(this.across, filter);
      this.rows = weightsOf(this.down, filter);
      const last = this.down.count - 1;
      this.begin = this.rows.first[0];
      this.end = this.rows.first[last] + this.rows.counts[last];
      this.wide = new Uint8ClampedArray((this.end - this.begin) * this.across.count * 3);
    }

    addRows(first, bytes, channels) {
      const { columns, width, wide } = this, count = this.across.count, given = bytes.length / (width * channels);
      for (let y = Math.max(first, this.begin); y < Math.min(first + given, this.end); y++) {
        const row = (y - first) * width * channels;
        let out = (y - this.begin) * count * 3;
        for (let at = 0; at < count; at++, out += 3) {
          let red = HALF, green = HALF, blue = HALF;
          let from = row + columns.first[at] * channels;
          const weights = at * columns.taps;
          for (let k = 0; k < columns.counts[at]; k++, from += channels) {
            const weight = columns.weights[weights + k];
            red += bytes[from] * weight;
            green += bytes[from + 1] * weight;
            blue += bytes[from + 2] * weight;
          }
          wide[out] = red >> PRECISION_BITS;
          wide[out + 1] = green >> PRECISION_BITS;
          wide[out + 2] = blue >> PRECISION_BITS;
        }
      }
    }

    finish() {
      const { rows, wide, contract: { image_size: side, margin } } = this, length = this.across.count * 3;
      const square = new Uint8ClampedArray(side * side * 3), sums = new Int32Array(length);
      for (let i = 0; i < square.length; i++) square[i] = margin[i % 3];
      for (let at = 0; at < this.down.count; at++) {
        sums.fill(HALF);
        for (let k = 0; k < rows.counts[at]; k++) {
          const weight = rows.weights[at * rows.taps + k], from = (rows.first[at] - this.begin + k) * length;
          for (let i = 0; i < length; i++) sums[i] += wide[from + i] * weight;
        }
        const out = ((this.down.before + at) * side + this.across.before) * 3;
        for (let i = 0; i < length; i++) square[out + i] = sums[i] >> PRECISION_BITS;
      }
      return new Uint8Array(square.buffer);
    }
  }

  /* Put straight RGBA on white, in place, as Pillow does. */
  function putOnWhite(rgba) {
    for (let i = 0; i < rgba.length; i += 4) {
      const alpha = rgba[i + 3];
      if (alpha === 255) continue;
      for (let c = i; c < i + 3; c++) {
        const mixed = 255 * (255 - alpha) + rgba[c] * alpha + 128;
        rgba[c] = ((mixed >> 8) + mixed) >> 8;
      }
      rgba[i + 3] = 255;
    }
    return rgba;
  }

  globalThis.headstartPixels = { PixelMaker, putOnWhite };
})();
