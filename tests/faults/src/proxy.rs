//! A TCP proxy on loopback that hurts the connections through it.
//!
//! The dice are rolled for each piece that a client sends, because that is where the moments are which matter: the request
//! never arrived, half of it arrived, or all of it did and only the answer was lost.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::counts::Tally;

/// How likely each fault is, for each piece a client sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odds {
    /// Cut before the piece is passed on.
    pub(crate) before: f64,
    /// Cut after half of it.
    pub(crate) during: f64,
    /// All of it is passed on, and the answer is swallowed.
    pub(crate) after: f64,
    /// Passed on late, by up to a fifth of a second.
    pub(crate) delayed: f64,
    /// Passed on at once, but for up to two seconds nothing comes back.
    pub(crate) stalled: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Before,
    During,
    After,
    Delayed(Duration),
    Stalled(Duration),
}

impl Odds {
    fn roll(&self, dice: &mut Rng) -> Option<Fault> {
        let mut rolled = dice.f64();
        let mut falls = |odds: f64| {
            rolled -= odds;
            rolled < 0.0
        };
        if falls(self.before) {
            Some(Fault::Before)
        } else if falls(self.during) {
            Some(Fault::During)
        } else if falls(self.after) {
            Some(Fault::After)
        } else if falls(self.delayed) {
            Some(Fault::Delayed(Duration::from_millis(dice.u64(5..200))))
        } else if falls(self.stalled) {
            Some(Fault::Stalled(Duration::from_millis(dice.u64(200..2_000))))
        } else {
            None
        }
    }
}

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Before => "cut_before",
            Self::During => "cut_during",
            Self::After => "cut_after",
            Self::Delayed(_) => "delayed",
            Self::Stalled(_) => "stalled",
        }
    }
}

/// Passes connections on, with faults. It ends when it is dropped, and its connections with it.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: AtomicU16,
    odds: Odds,
    calm: AtomicBool,
    injected: Tally,
    connections: AtomicU64,
}

impl Proxy {
    /// In front of a port on loopback. The dice of the n-th connection come from `seed` and n.
    pub(crate) async fn start(upstream: u16, odds: Odds, seed: u64, injected: Tally) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: upstream.into(),
            odds,
            calm: AtomicBool::new(false),
            injected,
            connections: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, shared.clone(), seed));
        Ok(Self { address, shared, accepting })
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Injects nothing from now on.
    pub(crate) fn calm(&self) {
        self.shared.calm.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, seed: u64) {
    let mut links = JoinSet::new();
    loop {
        // The set ends with this task, and its links with it.
        while links.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors for the moment.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let number = shared.connections.fetch_add(1, Ordering::Relaxed);
        let dice = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        links.spawn(link(client, shared.clone(), dice));
    }
}

/// One connection, until either side ends it or a fault does.
async fn link(mut client: TcpStream, shared: Arc<Shared>, mut dice: Rng) {
    let upstream = SocketAddr::from(([127, 0, 0, 1], shared.upstream.load(Ordering::Relaxed)));
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        // As a client would see it without a proxy.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let harsh = dice.bool();
    let held = Held::default();
    let cut = {
        let (client_out, client_in) = client.split();
        let (server_out, server_in) = server.split();
        tokio::try_join!(up(client_out, server_in, &shared, &mut dice, &held), down(server_out, client_in, &held))
    };
    if cut.is_err() && harsh {
        // A reset instead of an orderly end.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

/// What the way up tells the way down.
#[derive(Debug, Default)]
struct Held {
    swallow: AtomicBool,
    until: std::sync::Mutex<Option<Instant>>,
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cut on purpose")
}

async fn up(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    dice: &mut Rng,
    held: &Held,
) -> io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let fault = if shared.calm.load(Ordering::Relaxed) { None } else { shared.odds.roll(dice) };
        if let Some(fault) = fault {
            shared.injected.one(fault.name());
        }
        let piece = &piece[..read];
        match fault {
            None => to.write_all(piece).await?,
            Some(Fault::Before) => return Err(cut()),
            Some(Fault::During) => {
                to.write_all(&piece[..read / 2]).await?;
                return Err(cut());
            }
            Some(Fault::After) => {
                held.swallow.store(true, Ordering::Relaxed);
                to.write_all(piece).await?;
                // The way down ends the connection at the answer; there may be none.
                sleep(Duration::from_secs(2)).await;
                return Err(cut());
            }
            Some(Fault::Delayed(pause)) => {
                sleep(pause).await;
                to.write_all(piece).await?;
            }
            Some(Fault::Stalled(pause)) => {
                *crate::counts::lock(&held.until) = Some(Instant::now() + pause);
                to.write_all(piece).await?;
            }
        }
    }
}

async fn down(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, held: &Held) -> io::Result<()> {
    let mut piece = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut piece).await?;
        if held.swallow.load(Ordering::Relaxed) {
            return Err(cut());
        }
        let until = crate::counts::lock(&held.until).take();
        if let Some(until) = until {
            sleep_until(until).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        // Somebody who does not read is frozen; the connection is kept, as a network would.
        match timeout(Duration::from_secs(60), to.write_all(&piece[..read])).await {
            Ok(written) => written?,
            Err(_) => return Err(cut()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Odds = Odds { before: 0.0, during: 0.0, after: 0.0, delayed: 0.0, stalled: 0.0 };

    /// Sends `ping` through a proxy to a server that answers with what it got; what the server got, and the client.
    async fn ping(odds: Odds) -> (Vec<u8>, io::Result<Vec<u8>>, Tally) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let injected = Tally::default();
        let port = listener.local_addr().unwrap().port();
        let proxy = Proxy::start(port, odds, 7, injected.clone()).await.unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = Vec::new();
            let mut piece = [0; 64];
            while let Ok(read @ 1..) = stream.read(&mut piece).await {
                got.extend(&piece[..read]);
                let _ = stream.write_all(&piece[..read]).await;
            }
            got
        });
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
        client.write_all(b"ping").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = Vec::new();
        let answer = client.read_to_end(&mut answer).await.map(|_| answer);
        (server.await.unwrap(), answer, injected)
    }

    #[tokio::test]
    async fn each_fault_is_what_it_says() {
        let (got, answer, injected) = ping(NEVER).await;
        assert_eq!((&got[..], &answer.unwrap()[..], injected.total()), (&b"ping"[..], &b"ping"[..], 0));
        let (got, answer, _) = ping(Odds { before: 1.0, ..NEVER }).await;
        assert!(got.is_empty() && answer.is_ok_and(|answer| answer.is_empty()) || got.is_empty());
        let (got, _, _) = ping(Odds { during: 1.0, ..NEVER }).await;
        assert_eq!(got, b"pi");
        let (got, answer, injected) = ping(Odds { after: 1.0, ..NEVER }).await;
        assert_eq!(got, b"ping");
        assert!(answer.map_or(true, |answer| answer.is_empty()));
        assert_eq!(injected.of("cut_after"), 1);
        let begun = Instant::now();
        let (_, answer, _) = ping(Odds { stalled: 1.0, ..NEVER }).await;
        assert_eq!(answer.unwrap(), b"ping");
        assert!(begun.elapsed() >= Duration::from_millis(200));
    }

    #[test]
    fn the_same_seed_rolls_the_same_faults() {
        let odds = Odds { before: 0.1, during: 0.1, after: 0.1, delayed: 0.1, stalled: 0.1 };
        let rolls = |seed| {
            let mut dice = Rng::with_seed(seed);
            (0..100).map(|_| odds.roll(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(rolls(3), rolls(3));
        assert_ne!(rolls(3), rolls(4));
    }
}
