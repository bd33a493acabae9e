//! The reqwest transport against real sockets.

#![allow(clippy::expect_used, clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use axum::{Router, http::HeaderMap, response::Redirect, routing::post};
use common::Server;
use selvedge_core::{
    Context, ErrorKind,
    transport::{HttpRequest, HttpTransport},
};
use selvedge_http::ReqwestTransport;

fn request(path: &str) -> HttpRequest {
    HttpRequest {
        method: "POST",
        path: path.into(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: "{}".into(),
    }
}

async fn server() -> Server {
    let app = Router::new()
        .route(
            "/echo",
            post(async |headers: HeaderMap, body: String| format!("{:?} {body}", headers.get("authorization"))),
        )
        .route("/moved", post(async || Redirect::temporary("/echo")))
        .route("/hangs", post(async || std::future::pending::<()>().await))
        .route("/large", post(async || vec![b'x'; ReqwestTransport::MAX_BODY + 1]));
    Server::start(app).await
}

fn to(server: &Server) -> ReqwestTransport {
    ReqwestTransport::new(&server.url("/")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sends_and_brings_back_whatever_the_status() {
    let server = server().await;
    let response = to(&server).api_key("k").send(&Context::new(), request("/echo")).await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.body, r#"Some("Bearer k") {}"#);
    let missing = to(&server).send(&Context::new(), request("/nowhere")).await.unwrap();
    assert_eq!(missing.status, 404);
    let moved = to(&server).send(&Context::new(), request("/moved")).await.unwrap();
    assert_eq!((moved.status, moved.header("location")), (307, Some("/echo")), "redirects are not followed");
}

#[tokio::test(flavor = "multi_thread")]
async fn its_errors_say_what_a_caller_needs_to_know() {
    let server = server().await;
    let fast = to(&server).timeout(Duration::from_millis(150));
    let late = fast.send(&Context::new(), request("/hangs")).await.unwrap_err();
    assert_eq!((late.kind(), late.retryable()), (ErrorKind::DeadlineExceeded, false));

    let cx = Context::new().with_timeout(Duration::from_millis(150));
    let late = to(&server).send(&cx, request("/hangs")).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::DeadlineExceeded, "the context's deadline counts too");

    let cx = Context::new();
    let cancel = cx.cancel().clone();
    let started = Instant::now();
    let transport = to(&server);
    let (cancelled, ()) = tokio::join!(transport.send(&cx, request("/hangs")), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cancel.cancel();
    });
    assert_eq!(cancelled.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(started.elapsed() < Duration::from_secs(10));

    let large = to(&server).send(&Context::new(), request("/large")).await.unwrap_err();
    assert_eq!(large.kind(), ErrorKind::TooLarge);

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = ReqwestTransport::new(&format!("http://{free}")).unwrap();
    let refused = nobody.send(&Context::new(), request("/")).await.unwrap_err();
    assert_eq!((refused.kind(), refused.retryable()), (ErrorKind::Unavailable, true));
}

#[test]
fn an_address_it_cannot_use_is_refused_at_once() {
    for bad in ["", "localhost:80", "ftp://127.0.0.1", "https://127.0.0.1", "http://"] {
        let error = ReqwestTransport::new(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        assert!(error.advice().is_some());
    }
}
