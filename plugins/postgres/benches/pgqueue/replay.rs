//! Round trips that the replay of a completed idempotent request adds.

use std::time::Duration;

use selvedge_core::{
    Commit, Context, Store,
    idempotency::{Answer, Claim, ClaimRequest, Fingerprint, IdempotencyKey},
};
use selvedge_postgres::PostgresStore;

use crate::{Options, proxy::Proxy, report};

const REPLAYS: u32 = 100;

pub(crate) async fn measure(options: &Options) {
    let proxy = Proxy::start(options.text("--url").expect("--url")).await;
    // Nothing else speaks to the server meanwhile: no listener, no poll.
    let builder = PostgresStore::builder(proxy.url()).connections(1).without_listener();
    let store = builder.poll(Duration::from_secs(3_600)).open().await.expect("opens");
    let cx = Context::new();
    let key = IdempotencyKey::new("shop/orders.create", "a-key").expect("a key");
    let request = ClaimRequest::new(key, Fingerprint::of("orders.create", b"{}"));
    let Claim::Fresh(ticket) = store.claim(&cx, request.clone()).await.expect("claims") else { panic!("not fresh") };
    let answer = Answer::json(200, r#"{"order":7}"#);
    store.commit(&cx, Commit::new().settle(ticket, answer.clone())).await.expect("settles");
    // What the settlement leaves to do in the background is not the replay's.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = proxy.round_trips();
    for _ in 0..REPLAYS {
        assert_eq!(store.claim(&cx, request.clone()).await.expect("claims"), Claim::Done(answer.clone()));
    }
    let trips = proxy.round_trips() - before;
    report("replay of a completed request", "round trips", trips as f64 / f64::from(REPLAYS));
}
