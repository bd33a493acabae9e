// What the peers on Node share: options, results, and the producer of the latency case.

const { fork } = require("node:child_process");
const { parseArgs } = require("node:util");

const WARM_UP = 1;

const options = parseArgs({
  options: {
    url: { type: "string" },
    case: { type: "string" },
    jobs: { type: "string", default: "200000" },
    backlog: { type: "string", default: "75000" },
    seconds: { type: "string", default: "60" },
    rate: { type: "string", default: "100" },
    producers: { type: "string", default: "16" },
    role: { type: "string", default: "main" },
  },
}).values;
for (const name of ["jobs", "backlog", "seconds", "rate", "producers"]) options[name] = Number(options[name]);

// The same in every process of this machine.
const now = () => Number(process.hrtime.bigint()) / 1e6;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const report = (name, unit, value) => console.log(JSON.stringify({ case: name, unit, value }));

// This script again, as another process; `heard` gets its messages.
function start(script, role, heard = () => {}) {
  const child = fork(script, [...process.argv.slice(2), "--role", role], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
  child.on("message", heard);
  child.on("exit", (code) => code && process.exit(code));
  process.on("exit", () => child.kill("SIGKILL"));
  return child;
}

const exit = (child) => new Promise((done) => child.on("exit", done));
const message = (child) => new Promise((done) => child.once("message", done));

// One job a commit, evenly spaced; `enqueue` gets the time to put into it. Returns what was reached.
async function produce(enqueue) {
  const total = Math.floor((WARM_UP + options.seconds) * options.rate);
  const begun = now();
  let enqueued = 0;
  const producer = async (first) => {
    for (let job = first; job < total; job += options.producers) {
      // Whoever cannot keep up ends in time, with less.
      if (now() - begun > (WARM_UP + options.seconds) * 1000) break;
      const due = begun + (job / options.rate) * 1000;
      if (due > now()) await sleep(due - now());
      await enqueue(now());
      enqueued += 1;
    }
  };
  await Promise.all(Array.from({ length: options.producers }, (_, first) => producer(first)));
  return { total: enqueued, seconds: (now() - begun) / 1000 };
}

// Waits until every job was started, and says how long they took; the first second is not counted.
async function waits(starts, produced, begun) {
  for (let patience = now(); starts.length < produced.total; await sleep(20)) {
    if (now() - patience > 120_000) throw new Error(`${starts.length} of ${produced.total} jobs were started`);
  }
  const counted = starts.filter(([at]) => at >= begun + WARM_UP * 1000).map(([at, started]) => started - at);
  counted.sort((one, other) => one - other);
  for (const [name, share] of [["p50", 0.5], ["p99", 0.99]]) {
    report(name, "ms", counted[Math.floor((counted.length - 1) * share)]);
  }
  report("rate", "jobs/s", produced.total / produced.seconds);
}

function main(run) {
  if (process.send) process.on("disconnect", () => process.exit(0));
  run().then(
    () => process.exit(0),
    (error) => {
      console.error(error);
      process.exit(1);
    },
  );
}

module.exports = { options, now, sleep, report, start, exit, message, produce, waits, main };
