// Renders labelled avatar faces: node render.mjs --count 20000 --validation 1000 --size 128 --style micah --seed 1 --out DIR
//
// Writes DIR/train and DIR/validation, each with images.npy (uint8 [N, size, size, 3]) and labels.npy (uint8 [N, attributes],
// the index of the chosen slot of each attribute in attributes.json), and DIR/data.json, which says what was drawn. Slots are
// drawn uniformly and independently; an option in several slots is that much likelier. The same seed gives the same pictures,
// in every style the same people; the two parts are drawn from streams of their own, so more of one does not change the other.
// --distinct draws only from options that no other option of the style looks like, of those the first: then a face in one style
// says what it is in the other. --colours-seed takes the four colours from the people of another seed: what translating one face in the colours of another gives.
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { createAvatar } from '@dicebear/core';
import { Resvg } from '@resvg/resvg-js';
import { STYLES, distinctOptions } from './styles.mjs';

const here = path.dirname(new URL(import.meta.url).pathname);
const { attributes } = JSON.parse(fs.readFileSync(path.join(here, 'attributes.json'), 'utf8'));
const OVERSAMPLE = 2; // rendered larger and box-averaged: a picture costs the same and its edges are smoother
const ROWS = 256; // pictures held before they are written
const PARTS = { train: 0, validation: 0x5eed0000 };

function fail(message) {
  console.error(`render: ${message}`);
  process.exit(2);
}

function wholeNumber(values, name, least, most) {
  const value = Number(values[name]);
  if (!/^[0-9]+$/.test(values[name]) || value < least || value > most) {
    fail(`--${name} ${values[name]} is not a whole number from ${least} to ${most}`);
  }
  return value;
}

// mulberry32: 32 bits of state are enough to draw slots, and it is the same on every platform.
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function boxAverage(pixels, size, into, offset) {
  const wide = size * OVERSAMPLE;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      for (let c = 0; c < 3; c++) {
        let sum = 0;
        for (let dy = 0; dy < OVERSAMPLE; dy++) {
          for (let dx = 0; dx < OVERSAMPLE; dx++) {
            sum += pixels[((y * OVERSAMPLE + dy) * wide + x * OVERSAMPLE + dx) * 4 + c];
          }
        }
        into[offset++] = Math.round(sum / OVERSAMPLE ** 2);
      }
    }
  }
}

function npyHeader(shape) {
  let header = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape.join(', ')}), }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + '\n';
  const start = Buffer.alloc(10);
  start.write('\x93NUMPY\x01\x00', 'latin1');
  start.writeUInt16LE(header.length, 8);
  return Buffer.concat([start, Buffer.from(header, 'latin1')]);
}

// Under another name until it is whole, so that a render that was stopped leaves nothing that looks finished.
function npyFile(file, shape) {
  const handle = fs.openSync(`${file}.part`, 'w');
  fs.writeSync(handle, npyHeader(shape));
  return {
    write: (data) => fs.writeSync(handle, data),
    finish: () => {
      fs.closeSync(handle);
      fs.renameSync(`${file}.part`, file);
    },
  };
}

function drawSlots(choices, random, coloursFrom) {
  const slots = choices.map((among) => among[Math.floor(random() * among.length)]);
  if (!coloursFrom) return slots;
  const others = drawSlots(choices, coloursFrom);
  return slots.map((slot, a) => (attributes[a].name.endsWith('Color') ? others[a] : slot));
}

function renderPart(folder, name, count, choices, random, coloursFrom, style, size) {
  fs.mkdirSync(folder, { recursive: true });
  const [from, to] = style.viewBox;
  const bytes = size * size * 3;
  const images = npyFile(path.join(folder, 'images.npy'), [count, size, size, 3]);
  const labels = npyFile(path.join(folder, 'labels.npy'), [count, attributes.length]);
  const block = Buffer.alloc(ROWS * bytes);
  for (let i = 0; i < count; i++) {
    const slots = drawSlots(choices, random, coloursFrom);
    const chosen = Object.fromEntries(attributes.map(({ name, slots: options }, a) => [name, options[slots[a]]]));
    labels.write(Buffer.from(slots));
    const drawn = createAvatar(style.draw, style.options(chosen)).toString();
    const svg = drawn.replace(`viewBox="${from}"`, `viewBox="${to}"`);
    if (svg === drawn) fail(`the drawing does not have the view box ${from}: another version of DiceBear?`);
    const picture = new Resvg(svg, { fitTo: { mode: 'width', value: size * OVERSAMPLE } }).render();
    boxAverage(picture.pixels, size, block, (i % ROWS) * bytes);
    if ((i + 1) % ROWS === 0 || i + 1 === count) images.write(block.subarray(0, ((i % ROWS) + 1) * bytes));
    if ((i + 1) % 500 === 0 || i + 1 === count) process.stderr.write(`\r${name}: ${i + 1} of ${count} rendered`);
  }
  process.stderr.write('\n');
  images.finish();
  labels.finish();
}

function options() {
  try {
    return parseArgs({
      options: {
        count: { type: 'string', default: '1000' },
        validation: { type: 'string', default: '0' },
        size: { type: 'string', default: '128' },
        seed: { type: 'string', default: '0' },
        'colours-seed': { type: 'string' },
        distinct: { type: 'boolean', default: false },
        style: { type: 'string', default: 'avataaars' },
        out: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    return fail(error.message);
  }
}

const values = options();
if (values.help || !values.out) {
  console.log(
    'usage: node render.mjs --count N [--validation N] [--size PIXELS] [--seed S] [--colours-seed S] [--distinct] ' +
      `[--style ${Object.keys(STYLES).join('|')}] --out DIR`,
  );
  process.exit(values.help ? 0 : 2);
}
const counts = {
  train: wholeNumber(values, 'count', 1, 10000000),
  validation: wholeNumber(values, 'validation', 0, 10000000),
};
const size = wholeNumber(values, 'size', 8, 1024);
const seed = wholeNumber(values, 'seed', 0, 4294967295);
const colours = values['colours-seed'] === undefined ? null : wholeNumber(values, 'colours-seed', 0, 4294967295);
const style = Object.hasOwn(STYLES, values.style)
  ? STYLES[values.style]
  : fail(`--style ${values.style} is not one of ${Object.keys(STYLES).join(', ')}`);
// Indices of the slots that may be drawn, by attribute.
const choices = attributes.map(({ name, slots }) => {
  const allowed = values.distinct ? distinctOptions(name, slots) : slots;
  return slots.map((_, slot) => slot).filter((slot) => allowed.includes(slots[slot]));
});
try {
  for (const [part, count] of Object.entries(counts)) {
    const [random, other] = [seed, colours].map((from) => (from === null ? null : randomFrom(from ^ PARTS[part])));
    if (count) renderPart(path.join(values.out, part), part, count, choices, random, other, style, size);
  }
  const record = { style: values.style, size, seed, colours_seed: colours, distinct: values.distinct, ...counts, attributes };
  fs.writeFileSync(path.join(values.out, 'data.json'), JSON.stringify(record, null, 1) + '\n');
} catch (error) {
  if (!error.code) throw error;
  fail(`${values.out} cannot be written: ${error.message}`);
}
