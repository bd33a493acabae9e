//! A private PostgreSQL for a chore: prints its URL, and stops it when its own input ends.
//!
//! `cluster NAME=VALUE …` starts the server with these settings; by default it flushes as a real one does.
#![allow(missing_docs)]

use std::io::Read;

use selvedge_testkit::postgres::Cluster;

fn main() -> anyhow::Result<()> {
    let settings: Vec<String> = std::env::args().skip(1).flat_map(|setting| ["-c".to_owned(), setting]).collect();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let cluster = Cluster::start_with(&settings)?;
    println!("{}", cluster.url());
    // Whoever started this ends it by closing the pipe, or by ending in any other way.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
