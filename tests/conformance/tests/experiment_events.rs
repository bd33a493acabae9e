//! Events from a Store to files, on the real SQLite plugin.
#![allow(clippy::expect_used, reason = "A test may panic, and so may what it is made of.")]

use std::{fs::File, path::Path};

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use selvedge_core::{
    Commit, Context, ErrorKind,
    store::{Fact, FactView, Store, StoreExt},
};
use selvedge_experiments::analysis::input::{EVENT_COLUMNS, ExportedEvents, export_events};
use selvedge_sqlite::SqliteStore;

/// More than a page of facts, of all kinds.
async fn filled(path: &Path, cx: &Context) -> SqliteStore {
    let store = SqliteStore::open(path).expect("a Store");
    let odd = [
        Fact::new(
            "paywall_impression",
            "ada",
            r#"{"placement_id":"main","experiment":"price","variant":"B","cohort":"price:B"}"#,
        ),
        Fact::new(
            "purchase_completed",
            "ada, \"the\" countess",
            r#"{"product_id":"année","revenue":-2999,"currency":"USD","is_trial":false,"discount_pct":50,"is_refund":true}"#,
        ),
        Fact::new("workout", "bob", r#"{"revenue":"much","discount_pct":12.5,"variant":7,"note":"two\nlines"}"#),
        Fact::new("list", "bob", "[1, 2]"),
        Fact::new("raw", "bob", vec![0xff, 0, 7]),
    ];
    let many = (0..2_600).map(|n| Fact::new("session", format!("user-{n}"), format!(r#"{{"n":{n}}}"#)));
    let all: Vec<_> = odd.into_iter().chain(many).collect();
    for some in all.chunks(500) {
        store.commit(cx, some.iter().cloned().fold(Commit::new(), Commit::record)).await.expect("recorded");
    }
    store
}

async fn kept(store: &SqliteStore, cx: &Context) -> Vec<FactView> {
    store.facts(cx, None, 0, 10_000).await.expect("facts").items
}

const ODD: [[&str; 7]; 5] = [
    ["price", "B", "main", "", "", "", ""],
    ["", "", "", "année", "50", "-2999", "USD"],
    ["", "", "", "", "12.5", "", ""],
    ["", "", "", "", "", "", ""],
    ["", "", "", "", "", "", ""],
];

#[tokio::test]
async fn every_event_is_a_line_of_csv() {
    let (folder, cx) = (tempfile::tempdir().expect("a folder"), Context::new());
    let store = filled(&folder.path().join("events.db"), &cx).await;
    let facts = kept(&store, &cx).await;
    let path = folder.path().join("events.csv");
    let done = export_events(&store, &cx, None, &path).await.expect("written");
    assert_eq!(done, ExportedEvents { events: 2_605, without_properties: 1 });
    let mut reader = csv::Reader::from_path(&path).expect("a file");
    assert_eq!(reader.headers().expect("a head"), EVENT_COLUMNS.as_slice());
    let rows: Vec<_> = reader.records().collect::<Result<_, _>>().expect("rows");
    assert_eq!(rows.len(), facts.len());
    for (n, (row, FactView { fact, recorded_at })) in rows.iter().zip(&facts).enumerate() {
        let row: Vec<_> = row.iter().collect();
        assert_eq!(row[..3], [&*fact.id.to_string(), &fact.name, &fact.subject]);
        // To the microsecond, and in UTC.
        assert!(row[3].len() == 27 && row[3].ends_with('Z'), "{}", row[3]);
        assert_eq!(row[3][..23], recorded_at.to_string()[..23]);
        assert_eq!(row[3][20..26].parse::<i64>().expect("micros"), recorded_at.as_micros().rem_euclid(1_000_000));
        assert_eq!(row[4..11], *ODD.get(n).unwrap_or(&[""; 7]), "{}", fact.name);
        assert_eq!(row[11], std::str::from_utf8(&fact.properties).unwrap_or_default());
    }
    let named = export_events(&store, &cx, Some("workout"), &path).await.expect("written");
    assert_eq!(named.events, 1);
    assert!(std::fs::read_to_string(&path).expect("a file").contains("two\\nlines"));
    let nothing = export_events(&store, &cx, Some("nothing"), &path).await.expect("written");
    assert_eq!(nothing, ExportedEvents::default());
    assert_eq!(std::fs::read_to_string(&path).expect("a file").trim(), EVENT_COLUMNS.join(","));
}

#[tokio::test]
async fn every_event_is_a_row_of_parquet() {
    let (folder, cx) = (tempfile::tempdir().expect("a folder"), Context::new());
    let store = filled(&folder.path().join("events.db"), &cx).await;
    // Properties as large as they may be: more than one group of rows.
    let large = |n: u32| Fact::new("large", format!("user-{n}"), format!(r#"{{"text":"{}"}}"#, "x".repeat(60 << 10)));
    for part in 0..10 {
        let facts = (0..60).map(|n| large(part * 60 + n));
        store.commit(&cx, facts.fold(Commit::new(), Commit::record)).await.expect("recorded");
    }
    let facts = kept(&store, &cx).await;
    let path = folder.path().join("events.parquet");
    let done = export_events(&store, &cx, None, &path).await.expect("written");
    assert_eq!(done, ExportedEvents { events: 3_205, without_properties: 1 });
    let reader = SerializedFileReader::new(File::open(&path).expect("a file")).expect("Parquet");
    let schema = reader.metadata().file_metadata().schema_descr();
    let names: Vec<_> = schema.columns().iter().map(|column| column.path().string()).collect();
    assert_eq!(names, EVENT_COLUMNS);
    assert!(reader.num_row_groups() > 1, "memory is bounded");
    let rows = reader.get_row_iter(None).expect("rows");
    let mut count = 0;
    for (n, (row, FactView { fact, recorded_at })) in rows.zip(&facts).enumerate() {
        let row = row.expect("a row");
        let fields: Vec<_> = row.get_column_iter().map(|(_, field)| field.clone()).collect();
        let text = |field: &Field| match field {
            Field::Null => String::new(),
            Field::Str(text) => text.clone(),
            Field::Long(number) => number.to_string(),
            Field::Double(number) => number.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(fields[3], Field::TimestampMicros(recorded_at.as_micros()));
        let texts: Vec<_> = fields[..3].iter().chain(&fields[4..]).map(text).collect();
        assert_eq!(texts[..3], [fact.id.to_string(), fact.name.clone(), fact.subject.clone()]);
        assert_eq!(texts[3..10], *ODD.get(n).unwrap_or(&[""; 7]), "{}", fact.name);
        assert_eq!(texts[10], std::str::from_utf8(&fact.properties).unwrap_or_default());
        assert_eq!(fields[11] == Field::Null, fact.name == "raw");
        count += 1;
    }
    assert_eq!(count, facts.len());
    let nothing = export_events(&store, &cx, Some("nothing"), &path).await.expect("written");
    assert_eq!(nothing, ExportedEvents::default());
    let reader = SerializedFileReader::new(File::open(&path).expect("a file")).expect("Parquet");
    assert_eq!(reader.metadata().file_metadata().num_rows(), 0);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_named() {
    let (folder, cx) = (tempfile::tempdir().expect("a folder"), Context::new());
    let store = filled(&folder.path().join("events.db"), &cx).await;
    for name in ["nowhere/events.csv", "nowhere/events.parquet"] {
        let refused = export_events(&store, &cx, None, &folder.path().join(name)).await.expect_err("no folder");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
        assert!(refused.to_string().contains("nowhere"), "{refused}");
    }
}
