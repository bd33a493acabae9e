// What 64 flags with targeting cost for one user in @growthbook/growthbook, driven as its authors document it for Node: one
// client, and the user's context with each call. Reads what `evaluate --files FOLDER` left; prints a JSON line.
//
//     node evaluate.mjs MODULES FOLDER [--quick]

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

// As on a server: without it the package describes every step to its log.
process.env.NODE_ENV = "production";

const [modules, folder, quick] = process.argv.slice(2);
const { GrowthBookClient } = createRequire(join(resolve(modules), "here.js"))("@growthbook/growthbook");
const read = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));

const payload = read("payload.json");
const values = read("values.json");
const keys = Object.keys(values);
const client = new GrowthBookClient().initSync({ payload });
const context = { attributes: read("attributes.json") };

for (const key of keys) assert.deepEqual(client.evalFeature(key, context).value, values[key], key);

let sink = 0;
const round = (calls) => {
  const start = process.hrtime.bigint();
  for (let call = 0; call < calls; call++) {
    for (const key of keys) sink += client.evalFeature(key, context).on ? 1 : 0;
  }
  return Number(process.hrtime.bigint() - start) / calls;
};

round(2000); // compiled by then
const times = Array.from({ length: quick ? 3 : 7 }, () => round(quick ? 1000 : 5000)).sort((a, b) => a - b);
assert.ok(sink > 0);
console.log(JSON.stringify({
  contestant: "@growthbook/growthbook", case: "64 flags, one user", unit: "ns/user", value: times[times.length >> 1],
}));
