//! The ceiling: the plainest table and the plainest statements, run by pgbench.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::cluster::{ask, client};
use crate::shell;

/// How many clients claim at once; the better number counts.
const CLIENTS: [usize; 2] = [2, 4];

const TABLE: &str = "
    CREATE TABLE job (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      state smallint NOT NULL DEFAULT 0,
      payload text NOT NULL
    );
    CREATE INDEX job_ready ON job (id) WHERE state = 0";

/// How the claim is recognised in a log.
pub(super) const CLAIM: &str = "/* raw claim */";

fn insert(batch: usize) -> String {
    format!("INSERT INTO job (payload) SELECT '{{}}' FROM generate_series(1, {batch});\n")
}

/// A claim and the end of what it claimed, a transaction each.
fn claim_and_delete(batch: usize) -> String {
    format!(
        "WITH next AS MATERIALIZED (
           SELECT {CLAIM} id FROM job WHERE state = 0 ORDER BY id LIMIT {batch} FOR UPDATE SKIP LOCKED
         ), claimed AS (
           UPDATE job SET state = 1 FROM next WHERE job.id = next.id RETURNING job.id, job.payload
         )
         SELECT coalesce(array_agg(id), '{{}}') AS ids, count(payload) AS jobs FROM claimed \\gset
         DELETE FROM job WHERE id = ANY(:ids::bigint[]);\n"
    )
}

/// Makes the table, with jobs.
fn table(url: &str, jobs: usize) -> Result<()> {
    ask(url, TABLE)?;
    if jobs > 0 {
        ask(url, &insert(jobs))?;
    }
    ask(url, "VACUUM ANALYZE job").map(drop)
}

fn left(url: &str) -> Result<usize> {
    ask(url, "SELECT count(*) FROM job")?.parse().context("no number")
}

/// Jobs claimed and deleted a second, and by how many clients: the best of a few numbers of them.
pub(super) fn burn_down(fresh: &dyn Fn() -> Result<String>, jobs: usize, batch: usize) -> Result<(f64, usize)> {
    let mut best = (0.0, 0);
    for clients in CLIENTS {
        let url = fresh()?;
        table(&url, jobs)?;
        let each = jobs.div_ceil(batch * clients);
        let how = ["--transactions".to_owned(), each.to_string()];
        let tps = pgbench(&url, &format!("raw SQL, {clients} clients"), &claim_and_delete(batch), clients, &how)?;
        let done = jobs - left(&url)?;
        // The last claims find less than they want while others hold the rest.
        ensure!(done * 10 >= jobs * 9, "only {done} of {jobs} jobs were claimed");
        let rate = done as f64 / ((each * clients) as f64 / tps);
        if rate > best.0 {
            best = (rate, clients);
        }
    }
    Ok(best)
}

/// Jobs a second when each client inserts, claims and deletes in turn.
pub(super) fn continuous(url: &str, backlog: usize, batch: usize, clients: usize, seconds: u32) -> Result<f64> {
    table(url, backlog)?;
    let script = insert(batch) + &claim_and_delete(batch);
    let how = ["--time".to_owned(), seconds.to_string()];
    Ok(pgbench(url, &format!("raw SQL under load, {clients} clients"), &script, clients, &how)? * batch as f64)
}

/// One insert a transaction; with `notify` a pg_notify in the same one.
pub(super) fn enqueue(url: &str, notify: bool, clients: usize, seconds: u32) -> Result<f64> {
    table(url, 0)?;
    let script =
        if notify { format!("BEGIN;\n{}SELECT pg_notify('job', 'bench');\nCOMMIT;\n", insert(1)) } else { insert(1) };
    let label = if notify { "raw SQL, NOTIFY in the transaction" } else { "raw SQL, no NOTIFY" };
    pgbench(url, label, &script, clients, &["--time".to_owned(), seconds.to_string()])
}

/// Inserts and works off jobs in waves, one client.
pub(super) fn waves(url: &str, jobs: usize, wave: usize, batch: usize) -> Result<()> {
    table(url, 0)?;
    let how = ["--transactions".to_owned(), (wave / batch).to_string()];
    for _ in 0..jobs / wave {
        pgbench(url, "raw SQL enqueues", &insert(batch), 1, &how)?;
        pgbench(url, "raw SQL works off", &claim_and_delete(batch), 1, &how)?;
    }
    ensure!(left(url)? == 0, "a job is left");
    Ok(())
}

/// Runs a script by pgbench; transactions a second, without the time to connect.
fn pgbench(url: &str, label: &str, script: &str, clients: usize, how: &[String]) -> Result<f64> {
    let file = tempfile::NamedTempFile::new()?;
    write(file.path(), script)?;
    let mut command = client("pgbench");
    command.args(["--no-vacuum", "--protocol", "prepared", "--jobs", &clients.min(2).to_string()]);
    command.args(["--client", &clients.to_string()]).args(how).arg("--file").arg(file.path()).arg(url);
    let said = shell::quiet(label, &mut command)?;
    rate(&said).with_context(|| format!("pgbench said no rate: {said}"))
}

fn write(path: &Path, script: &str) -> Result<()> {
    // pgbench ends a statement at `;` or `\gset`, and reads a line break as a blank only within one.
    fs::write(path, script).with_context(|| format!("cannot write {}", path.display()))
}

/// The rate in pgbench's report.
fn rate(said: &str) -> Option<f64> {
    let line = said.lines().rev().find(|line| {
        line.starts_with("tps = ") && (line.contains("without initial") || line.contains("excluding connections"))
    })?;
    line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_leaves_out_connecting_in_old_and_new_reports() {
        let new = "latency average = 1.2 ms\ninitial connection time = 3 ms\ntps = 801.250000 (without initial connection time)\n";
        assert_eq!(rate(new), Some(801.25));
        let old =
            "tps = 700.5 (including connections establishing)\ntps = 710.5 (excluding connections establishing)\n";
        assert_eq!(rate(old), Some(710.5));
        assert_eq!(rate("pgbench: error"), None);
    }
}
