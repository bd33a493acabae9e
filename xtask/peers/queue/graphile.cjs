// graphile-worker with the preset of its own perfTest: processes of 24 jobs at once, each with a local queue of 500 and
// completions in batches; two of them, for a machine with two cores.

const { Logger, makeWorkerUtils, run, runMigrations, runOnce } = require("graphile-worker");
const { Pool } = require("pg");
const { exit, main, message, now, options, produce, report, sleep, start, waits } = require("./common.cjs");

const PROCESSES = 2;
const CONCURRENT_JOBS = 24;
const BATCH = 5_000;

const quiet = new Logger(() => (level, text) => level === "error" && console.error(text));
const preset = {
  worker: {
    connectionString: options.url,
    gracefulShutdownAbortTimeout: 2500,
    concurrentJobs: CONCURRENT_JOBS,
    maxPoolSize: CONCURRENT_JOBS + 1,
    localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
    logger: quiet,
  },
};

// perfTest's own way to enqueue: one call of add_jobs.
async function fill(pool, count) {
  for (let left = count; left > 0; left -= BATCH) {
    await pool.query(
      `SELECT count(*) FROM graphile_worker.add_jobs(ARRAY(
         SELECT json_populate_record(null::graphile_worker.job_spec, '{"identifier":"bench","payload":{}}')
         FROM generate_series(1, $1::int)))`,
      [Math.min(left, BATCH)],
    );
  }
}

const left = async (pool) => Number((await pool.query("SELECT count(*) FROM graphile_worker._private_jobs")).rows[0].count);

const roles = {
  // Burns down what is there; connects first, so that the clock is about jobs.
  async once() {
    const go = new Promise((done) => process.once("message", done));
    process.send("ready");
    await go;
    await runOnce({ preset }, { bench: () => {} });
  },
  async worker() {
    let done = 0;
    const starts = [];
    const runner = await run(
      { preset, noHandleSignals: true },
      {
        bench: ({ at }) => {
          done += 1;
          if (at) starts.push([at, now()]);
        },
      },
    );
    process.send({});
    setInterval(() => {
      process.send({ done, starts: starts.splice(0) });
      done = 0;
    }, 20);
    await new Promise((ended) => process.once("message", ended));
    await runner.stop();
  },
  async producer() {
    const utils = await makeWorkerUtils({ connectionString: options.url, maxPoolSize: options.producers, logger: quiet });
    await utils.addJob("warm", {});
    const begun = now();
    const produced = await produce((at) => utils.addJob("bench", { at }));
    process.send({ begun, produced });
  },
  async main() {
    const pool = new Pool({ connectionString: options.url });
    await runMigrations({ connectionString: options.url, logger: quiet });
    await cases[options.case](pool);
  },
};

// `count` workers that run, once all of them do.
async function workers(count, heard) {
  const children = Array.from({ length: count }, () => start(__filename, "worker", heard));
  await Promise.all(children.map(message));
  return children;
}

const cases = {
  async "burn-down"(pool) {
    const time = async () => {
      const children = Array.from({ length: PROCESSES }, () => start(__filename, "once"));
      await Promise.all(children.map(message));
      const begun = now();
      children.forEach((child) => child.send("go"));
      await Promise.all(children.map(exit));
      return now() - begun;
    };
    // As perfTest does: what starting and stopping take without a job is not counted.
    const idle = await time();
    await fill(pool, options.jobs);
    const busy = await time();
    if ((await left(pool)) !== 0) throw new Error("a job is left");
    report("burn-down", "jobs/s", options.jobs / ((busy - idle) / 1000));
  },
  async continuous(pool) {
    await fill(pool, options.backlog);
    let done = 0;
    await workers(PROCESSES, (told) => (done += told.done ?? 0));
    const [begun, before] = [now(), await left(pool)];
    let enqueued = options.backlog;
    let added = 0;
    let ended = false;
    const producer = (async () => {
      while (!ended) {
        const missing = Math.max(options.backlog - (enqueued - done), 0);
        await fill(pool, missing);
        enqueued += missing;
        added += missing;
        await sleep(250);
      }
    })();
    await sleep(options.seconds * 1000);
    ended = true;
    await producer;
    // What counts is what is gone from the table.
    const completed = before + added - (await left(pool));
    report("continuous load", "jobs/s", completed / ((now() - begun) / 1000));
  },
  async latency() {
    const starts = [];
    await workers(PROCESSES, (told) => starts.push(...(told.starts ?? [])));
    const { begun, produced } = await message(start(__filename, "producer"));
    await waits(starts, produced, begun);
  },
};

main(roles[options.role]);
