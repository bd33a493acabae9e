//! A TCP proxy that counts round trips: how often the client spoke after the server did.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use selvedge_postgres::tokio_postgres::{Config, config::Host};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Listens on a port of its own and leads to the server, until the program ends.
pub(crate) struct Proxy {
    url: String,
    trips: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn start(server: &str) -> Self {
        let config: Config = server.parse().expect("a URL");
        let [Host::Tcp(host)] = config.get_hosts() else { panic!("not one TCP server") };
        let target = (host.clone(), config.get_ports()[0]);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = server.replace(&format!(":{}", target.1), &format!(":{port}"));
        let trips = Arc::new(AtomicU64::new(0));
        let counted = trips.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("connects");
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("no delay");
                }
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let answered = Arc::new(AtomicBool::new(true));
                let (asks, counted) = (answered.clone(), counted.clone());
                tokio::spawn(pass(from_client, to_server, move || {
                    if asks.swap(false, Ordering::AcqRel) {
                        counted.fetch_add(1, Ordering::AcqRel);
                    }
                }));
                tokio::spawn(pass(from_server, to_client, move || answered.store(true, Ordering::Release)));
            }
        });
        Self { url, trips }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn round_trips(&self) -> u64 {
        self.trips.load(Ordering::Acquire)
    }
}

/// Passes bytes on; `seen` is told before each portion goes out.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, seen: impl Fn()) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        seen();
        if to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
}
