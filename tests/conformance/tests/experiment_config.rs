//! The configuration: what is believed of a server, what is kept, and how old it gets.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use selvedge_core::{
    AnyStore, BoxFuture, Clock, Context, Error, ErrorKind, Experiment, Result, Timestamp,
    experiment::Assign,
    transport::{HttpRequest, HttpResponse, HttpTransport},
};
use selvedge_experiments::{ConfigSource, Experiments, ExperimentsBuilder, Refreshed, WhenStale, public_key, sign};
use selvedge_sqlite::SqliteStore;
use selvedge_testkit::ManualClock;

const SECRET: [u8; 32] = [7; 32];
const NEXT: [u8; 32] = [8; 32];

/// An origin with one resource and its validator, which a test may let fail.
#[derive(Debug, Default)]
struct Origin(Mutex<Resource>);

#[derive(Debug, Default)]
struct Resource {
    body: Vec<u8>,
    etag: Option<String>,
    status: Option<u16>,
    down: bool,
    conditional: Vec<Option<String>>,
}

impl Origin {
    fn set(&self, change: impl FnOnce(&mut Resource)) {
        change(&mut self.0.lock().unwrap());
    }

    fn serve(&self, body: &str, etag: &str) {
        self.set(|it| (it.body, it.etag, it.status) = (body.into(), Some(etag.into()), None));
    }
}

impl HttpTransport for Origin {
    fn send<'a>(&'a self, _: &'a Context, request: HttpRequest) -> BoxFuture<'a, Result<HttpResponse>> {
        assert_eq!((request.method, request.path.as_str()), ("GET", "/v1/config"));
        let asked = request.headers.into_iter().find(|(name, _)| name == "if-none-match").map(|(_, value)| value);
        let mut it = self.0.lock().unwrap();
        it.conditional.push(asked.clone());
        let known = asked.is_some() && asked == it.etag;
        let response = HttpResponse {
            status: it.status.unwrap_or(if known { 304 } else { 200 }),
            headers: it.etag.iter().map(|etag| ("etag".into(), etag.clone())).collect(),
            body: if known { Vec::new() } else { it.body.clone() }.into(),
        };
        let down = it.down;
        Box::pin(async move {
            if down { Err(Error::new(ErrorKind::Unavailable, "test.send", "no network")) } else { Ok(response) }
        })
    }
}

struct Bed {
    folder: tempfile::TempDir,
    origin: Arc<Origin>,
    clock: Arc<ManualClock>,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, origin: Arc::new(Origin::default()), clock: Arc::new(ManualClock::new()) }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("config.json")
    }

    fn builder(&self) -> ExperimentsBuilder {
        let store = SqliteStore::open(self.folder.path().join("app.db")).unwrap();
        Experiments::builder()
            .store(AnyStore::new(store))
            .config(self.origin.clone(), "/v1/config")
            .cache(self.cache())
            .clock(self.clock.clone())
            .bundled(showing("bundled"))
    }

    /// As an app with a trusted key opens it, at each start.
    fn open(&self) -> Experiments {
        self.builder().trusted_key("a", &public_key(&SECRET)).build().unwrap()
    }

    fn serve(&self, offering: &str, issued_at: i64) {
        self.origin.serve(&signed(offering, issued_at), &format!("\"{issued_at}\""));
    }
}

fn showing(offering: &str) -> String {
    format!(r#"{{"features":{{"main_paywall":{{"defaultValue":{{"offering":"{offering}"}}}}}}}}"#)
}

fn signed(offering: &str, issued_at: i64) -> String {
    sign(showing(offering).as_bytes(), "a", &SECRET, Timestamp(issued_at)).unwrap()
}

async fn sees(experiments: &Experiments) -> Result<String> {
    let assignment = experiments.assign(&Context::new(), Assign::new("ada", "main_paywall")).await?;
    Ok(assignment.value()?.unwrap().offering.unwrap())
}

async fn refresh(experiments: &Experiments) -> Result<Refreshed, ErrorKind> {
    experiments.refresh(&Context::new()).await.map_err(|error| error.kind())
}

#[tokio::test]
async fn the_first_launch_goes_by_what_came_with_the_app() {
    let bed = Bed::new();
    let app = bed.open();
    bed.origin.set(|it| it.down = true);
    assert_eq!(refresh(&app).await, Err(ErrorKind::Unavailable));
    assert_eq!(sees(&app).await.unwrap(), "bundled");
    let health = app.health();
    assert_eq!((health.source, health.age, health.stale), (ConfigSource::Bundled, None, true));
    assert_eq!(health.last_error_kind, Some(ErrorKind::Unavailable));
    assert!(!bed.cache().exists(), "it is not kept as if a server had sent it");
}

#[tokio::test]
async fn what_is_fetched_holds_also_after_a_restart_without_a_network() {
    let bed = Bed::new();
    bed.serve("fetched", 5);
    let app = bed.open();
    assert_eq!(refresh(&app).await, Ok(Refreshed::New));
    assert_eq!(sees(&app).await.unwrap(), "fetched");
    assert_eq!(refresh(&app).await, Ok(Refreshed::Unchanged));
    assert_eq!(app.health().source, ConfigSource::Server);
    drop(app);
    bed.origin.set(|it| it.down = true);
    let app = bed.open();
    assert_eq!(sees(&app).await.unwrap(), "fetched");
    let health = app.health();
    assert_eq!((health.source, health.issued_at, health.stale), (ConfigSource::Cache, Some(Timestamp(5)), false));
    bed.origin.set(|it| it.down = false);
    assert_eq!(refresh(&app).await, Ok(Refreshed::Unchanged));
    let tag = Some("\"5\"".to_owned());
    assert_eq!(bed.origin.0.lock().unwrap().conditional, [None, tag.clone(), tag], "asked only for what is newer");
}

#[tokio::test]
async fn whatever_goes_wrong_the_last_good_one_stays() {
    let bed = Bed::new();
    bed.serve("good", 5);
    let app = bed.open();
    refresh(&app).await.unwrap();
    let whole = signed("newer", 6);
    let other_key = sign(showing("forged").as_bytes(), "a", &NEXT, Timestamp(7)).unwrap();
    let unknown_key = sign(showing("forged").as_bytes(), "z", &NEXT, Timestamp(7)).unwrap();
    let empty = sign(b"{}", "a", &SECRET, Timestamp(7)).unwrap();
    let error_page = sign(br#"{"status":400,"error":"no such key"}"#, "a", &SECRET, Timestamp(7)).unwrap();
    let wrong = [
        (whole[..whole.len() / 3].to_owned(), ErrorKind::Damaged, "cut off in the payload"),
        (whole[..whole.len() - 9].to_owned(), ErrorKind::Damaged, "cut off in the signature"),
        (showing("unsigned"), ErrorKind::Damaged, "not signed"),
        ("<html>Please sign in to this network</html>".into(), ErrorKind::Damaged, "a captive portal"),
        (String::new(), ErrorKind::Damaged, "nothing"),
        (other_key, ErrorKind::PermissionDenied, "another key"),
        (unknown_key, ErrorKind::PermissionDenied, "a key that is not trusted"),
        (empty, ErrorKind::Damaged, "no features"),
        (error_page, ErrorKind::Damaged, "an error in JSON"),
        (signed("replayed", 4), ErrorKind::Conflict, "an older one"),
    ];
    for (body, kind, what) in wrong {
        bed.origin.serve(&body, "\"wrong\"");
        assert_eq!(refresh(&app).await, Err(kind), "{what}");
        assert_eq!(sees(&app).await.unwrap(), "good", "{what}");
        assert_eq!(app.health().last_error_kind, Some(kind), "{what}");
        assert_eq!(sees(&bed.open()).await.unwrap(), "good", "{what}, after a restart");
    }
    bed.origin.set(|it| it.status = Some(503));
    assert_eq!(refresh(&app).await, Err(ErrorKind::Unavailable));
    bed.serve("newer", 6);
    assert_eq!(refresh(&app).await, Ok(Refreshed::New));
    assert_eq!((sees(&app).await.unwrap().as_str(), app.health().last_error), ("newer", None));
}

#[tokio::test]
async fn keys_rotate_while_both_are_trusted() {
    let bed = Bed::new();
    bed.serve("old key", 5);
    let (a, b) = (public_key(&SECRET), public_key(&NEXT));
    let app = bed.builder().trusted_key("a", &a).trusted_key("b", &b).build().unwrap();
    refresh(&app).await.unwrap();
    let new = sign(showing("new key").as_bytes(), "b", &NEXT, Timestamp(6)).unwrap();
    bed.origin.serve(&new, "\"6\"");
    refresh(&app).await.unwrap();
    assert_eq!(sees(&app).await.unwrap(), "new key");
    // A release that no longer trusts the key of what was kept does not go by it.
    let app = bed.builder().trusted_key("a", &a).build().unwrap();
    assert_eq!(sees(&app).await.unwrap(), "bundled");
    assert_eq!(app.health().last_error_kind, Some(ErrorKind::PermissionDenied));
}

#[tokio::test]
async fn without_keys_the_payload_is_taken_as_growthbook_serves_it() {
    let bed = Bed::new();
    let dated = |offering: &str, date: &str| {
        showing(offering).replacen('{', &format!(r#"{{"status":200,"dateUpdated":"{date}","#), 1)
    };
    let app = bed.builder().build().unwrap();
    bed.origin.serve(&dated("second", "2026-11-27T10:00:00.000Z"), "\"2\"");
    refresh(&app).await.unwrap();
    bed.origin.serve(&dated("first", "2026-11-26T10:00:00.000Z"), "\"1\"");
    assert_eq!(refresh(&app).await, Err(ErrorKind::Conflict), "an old answer from some cache");
    assert_eq!(sees(&app).await.unwrap(), "second");
}

#[tokio::test]
async fn an_old_one_says_so_or_is_refused() {
    let bed = Bed::new();
    bed.serve("fetched", 5);
    let day = Duration::from_secs(86_400);
    let lenient = bed.open();
    let strict = bed.builder().trusted_key("a", &public_key(&SECRET)).when_stale(WhenStale::Refuse).build().unwrap();
    assert_eq!(sees(&strict).await.unwrap_err().kind(), ErrorKind::Unavailable, "what came with the app is old");
    refresh(&lenient).await.unwrap();
    refresh(&strict).await.unwrap();
    bed.clock.advance(day - Duration::from_secs(5));
    assert!(!lenient.health().stale);
    assert_eq!(sees(&strict).await.unwrap(), "fetched");
    bed.clock.advance(Duration::from_secs(10));
    assert!(lenient.health().stale);
    assert_eq!(sees(&lenient).await.unwrap(), "fetched");
    let refused = sees(&strict).await.unwrap_err();
    assert_eq!((refused.kind(), refused.retryable()), (ErrorKind::Unavailable, true), "{refused}");
    assert_eq!(refresh(&strict).await, Ok(Refreshed::Unchanged), "it is still the newest");
    assert_eq!(sees(&strict).await.unwrap(), "fetched");
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_nothing_young_and_expires_nothing() {
    let bed = Bed::new();
    bed.serve("fetched", 5);
    let (hour, began) = (Duration::from_secs(3_600), bed.clock.now());
    refresh(&bed.open()).await.unwrap();
    // 20 hours later, seen by a start of the app.
    bed.clock.advance(20 * hour);
    assert!(!bed.open().health().stale);
    bed.clock.set(began - 1000 * hour);
    let app = bed.open();
    assert!(!app.health().stale, "setting the clock back expires nothing");
    assert!(app.health().age >= Some(20 * hour), "nor does it make anything young");
    bed.clock.advance(3 * hour);
    assert!(!bed.open().health().stale);
    bed.clock.advance(2 * hour);
    assert!(bed.open().health().stale, "25 hours have passed since");
}

#[tokio::test]
async fn a_damaged_cache_is_passed_over_and_replaced() {
    let bed = Bed::new();
    bed.serve("fetched", 5);
    refresh(&bed.open()).await.unwrap();
    let whole = std::fs::read(bed.cache()).unwrap();
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        std::fs::write(bed.cache(), &whole[..length]).unwrap();
        let app = bed.open();
        assert_eq!(sees(&app).await.unwrap(), "bundled", "{length} bytes of {}", whole.len());
        assert_eq!(app.health().last_error_kind, Some(ErrorKind::Damaged));
        assert_eq!(refresh(&app).await, Ok(Refreshed::New));
        assert_eq!(sees(&bed.open()).await.unwrap(), "fetched");
    }
}

#[tokio::test]
async fn a_cache_that_cannot_be_written_keeps_nothing_from_holding() {
    let bed = Bed::new();
    bed.serve("fetched", 5);
    let app = bed.builder().cache(bed.folder.path().join("none/config.json")).build().unwrap();
    bed.origin.serve(&showing("fetched"), "\"1\"");
    assert_eq!(refresh(&app).await, Ok(Refreshed::New));
    assert_eq!(sees(&app).await.unwrap(), "fetched");
    assert_eq!(app.health().last_error_kind, Some(ErrorKind::Unavailable), "health tells");
}

#[tokio::test]
async fn a_host_may_give_one_and_it_is_checked_too() {
    let bed = Bed::new();
    let app = bed.open();
    assert_eq!(app.load(showing("unsigned").as_bytes()).unwrap_err().kind(), ErrorKind::Damaged);
    app.load(signed("given", 5).as_bytes()).unwrap();
    assert_eq!((sees(&app).await.unwrap().as_str(), app.health().source), ("given", ConfigSource::Host));
    assert_eq!(app.load(signed("older", 4).as_bytes()).unwrap_err().kind(), ErrorKind::Conflict);
    let part = r#"{"features":{"main_paywall":{"defaultValue":{"offering":"x"}},"broken":{"rules":7}}}"#;
    app.load(sign(part.as_bytes(), "a", &SECRET, Timestamp(6)).unwrap().as_bytes()).unwrap();
    let health = app.health();
    assert_eq!(health.features, 1);
    assert!(health.left_out[0].starts_with("feature broken"), "{health:?}");
}

#[test]
fn what_cannot_be_built_says_why() {
    let kind = |builder: ExperimentsBuilder| builder.build().unwrap_err().kind();
    assert_eq!(kind(Experiments::builder()), ErrorKind::InvalidInput);
    let bed = Bed::new();
    assert_eq!(kind(bed.builder().bundled("{")), ErrorKind::Damaged);
    assert_eq!(kind(bed.builder().trusted_key("a", &[0; 32])), ErrorKind::InvalidInput);
}
