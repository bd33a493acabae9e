// pg-boss: loops that fetch 500 and complete them for throughput, and for latency its workers, woken by LISTEN/NOTIFY.

const { PgBoss } = require("pg-boss");
const { main, message, now, options, produce, report, sleep, start, waits } = require("./common.cjs");

const QUEUE = "bench";
const LOOPS = 4;
const FETCH = 500;
const BATCH = 5_000;

const settings = { connectionString: options.url, schedule: false, supervise: false, useListenNotify: options.case === "latency" };

async function open() {
  const boss = new PgBoss(settings);
  boss.on("error", (error) => console.error(error));
  await boss.start();
  return boss;
}

async function fill(boss, count) {
  for (let left = count; left > 0; left -= BATCH) {
    await boss.insert(QUEUE, Array.from({ length: Math.min(left, BATCH) }, () => ({ data: {} })));
  }
}

// Fetches and completes until `ended`; `done` hears of each batch.
async function consume(boss, ended, done) {
  await Promise.all(
    Array.from({ length: LOOPS }, async () => {
      for (;;) {
        const jobs = await boss.fetch(QUEUE, { batchSize: FETCH });
        if (ended(jobs)) return;
        if (jobs.length === 0) {
          await sleep(5);
          continue;
        }
        await boss.complete(QUEUE, jobs.map((job) => job.id));
        done(jobs.length);
      }
    }),
  );
}

const cases = {
  async "burn-down"(boss) {
    await fill(boss, options.jobs);
    let done = 0;
    const begun = now();
    await consume(boss, (jobs) => jobs.length === 0, (count) => (done += count));
    if (done !== options.jobs) throw new Error(`${done} of ${options.jobs} jobs`);
    report("burn-down", "jobs/s", done / ((now() - begun) / 1000));
  },
  async continuous(boss) {
    await fill(boss, options.backlog);
    let [done, enqueued, over] = [0, options.backlog, false];
    const begun = now();
    const producer = (async () => {
      while (!over) {
        const missing = Math.max(options.backlog - (enqueued - done), 0);
        await fill(boss, missing);
        enqueued += missing;
        await sleep(250);
      }
    })();
    const consumer = consume(boss, () => over, (count) => (done += count));
    await sleep(options.seconds * 1000);
    report("continuous load", "jobs/s", done / ((now() - begun) / 1000));
    over = true;
    await Promise.all([producer, consumer]);
  },
  async latency(boss) {
    const starts = [];
    const work = { batchSize: FETCH, localConcurrency: LOOPS, pollingIntervalSeconds: 0.5, burstWhenBatchFull: true };
    await boss.work(QUEUE, work, async (jobs) => {
      const started = now();
      for (const { data } of jobs) starts.push([data.at, started]);
    });
    await sleep(500);
    const { begun, produced } = await message(start(__filename, "producer"));
    await waits(starts, produced, begun);
  },
};

const roles = {
  async producer() {
    const boss = new PgBoss({ ...settings, useListenNotify: false, max: options.producers });
    await boss.start();
    const begun = now();
    const produced = await produce((at) => boss.send(QUEUE, { at }));
    process.send({ begun, produced });
  },
  async main() {
    const boss = await open();
    await boss.createQueue(QUEUE, { notify: options.case === "latency" });
    await cases[options.case](boss);
  },
};

main(roles[options.role]);
