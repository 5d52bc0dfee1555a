// Renders labelled avatar faces: node render.mjs --count 1000 --size 64 --seed 1 --out DIR
//
// Writes DIR/images.npy (uint8 [N, size, size, 3]) and DIR/labels.npy (uint8 [N, attributes], the index of the chosen
// slot of each attribute in attributes.json). Slots are drawn uniformly and independently; an option that appears in
// several slots is that much likelier. The same seed gives the same pictures.
import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { createAvatar } from '@dicebear/core';
import { avataaars } from '@dicebear/collection';
import { Resvg } from '@resvg/resvg-js';

const here = path.dirname(new URL(import.meta.url).pathname);
const { viewBox, attributes } = JSON.parse(fs.readFileSync(path.join(here, 'attributes.json'), 'utf8'));
const OVERSAMPLE = 2; // rendered larger and box-averaged: a picture costs the same and its edges are smoother

function fail(message) {
  console.error(`render: ${message}`);
  process.exit(2);
}

function wholeNumber(values, name, least, most) {
  const value = Number(values[name]);
  if (!Number.isInteger(value) || value < least || value > most) {
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

function optionsOf(chosen) {
  const { top, accessories, facialHair, hairColor } = chosen;
  return {
    seed: 'fixed', // every visible choice below is explicit
    style: ['default'],
    top: [top === 'bald' ? 'sides' : top],
    topProbability: top === 'bald' ? 0 : 100,
    hairColor: [hairColor],
    facialHairColor: [hairColor],
    hatColor: [chosen.clothesColor],
    skinColor: [chosen.skinColor],
    eyes: [chosen.eyes],
    eyebrows: [chosen.eyebrows],
    mouth: [chosen.mouth],
    accessories: [accessories === 'none' ? 'round' : accessories],
    accessoriesProbability: accessories === 'none' ? 0 : 100,
    accessoriesColor: ['262e33'],
    facialHair: [facialHair === 'none' ? 'beardLight' : facialHair],
    facialHairProbability: facialHair === 'none' ? 0 : 100,
    clothing: [chosen.clothing],
    clothesColor: [chosen.clothesColor],
    backgroundColor: [chosen.backgroundColor],
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

function npy(shape, data) {
  let header = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape.join(', ')}), }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + '\n';
  const start = Buffer.alloc(10);
  start.write('\x93NUMPY\x01\x00', 'latin1');
  start.writeUInt16LE(header.length, 8);
  return Buffer.concat([start, Buffer.from(header, 'latin1'), data]);
}

const { values } = parseArgs({
  options: {
    count: { type: 'string', default: '1000' },
    size: { type: 'string', default: '64' },
    seed: { type: 'string', default: '0' },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help || !values.out) {
  console.log('usage: node render.mjs --count N --size PIXELS --seed S --out DIR');
  process.exit(values.help ? 0 : 2);
}
const count = wholeNumber(values, 'count', 1, 200000);
const size = wholeNumber(values, 'size', 8, 512);
const random = randomFrom(wholeNumber(values, 'seed', 0, 4294967295));

const images = Buffer.alloc(count * size * size * 3);
const labels = Buffer.alloc(count * attributes.length);
for (let i = 0; i < count; i++) {
  const chosen = {};
  attributes.forEach(({ name, slots }, a) => {
    const slot = Math.floor(random() * slots.length);
    labels[i * attributes.length + a] = slot;
    chosen[name] = slots[slot];
  });
  const svg = createAvatar(avataaars, optionsOf(chosen)).toString().replace('viewBox="0 0 280 280"', `viewBox="${viewBox}"`);
  const drawn = new Resvg(svg, { fitTo: { mode: 'width', value: size * OVERSAMPLE } }).render();
  boxAverage(drawn.pixels, size, images, i * size * size * 3);
  if ((i + 1) % 1000 === 0 || i + 1 === count) process.stderr.write(`\r${i + 1} of ${count} rendered`);
}
process.stderr.write('\n');
fs.mkdirSync(values.out, { recursive: true });
for (const [name, shape, data] of [
  ['images', [count, size, size, 3], images],
  ['labels', [count, attributes.length], labels],
]) {
  const file = path.join(values.out, `${name}.npy`);
  fs.writeFileSync(`${file}.part`, npy(shape, data));
  fs.renameSync(`${file}.part`, file);
}
