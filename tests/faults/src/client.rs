//! Clients that try again with the same key until they have an answer, and what they were told.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use reqwest::{Client, header::CONTENT_TYPE};
use tokio::time::{Instant, sleep};

use crate::{
    counts::Tally,
    service::{Order, Way},
};

/// Longer than any fault lasts: whoever has no answer by then never gets one.
const PATIENCE: Duration = Duration::from_secs(60);

/// A definitive answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// One intent, and every definitive answer to it.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) order: Order,
    /// Answers to the order itself, however often it was sent; `None` for a client that gave up.
    pub(crate) told: Vec<Option<Told>>,
    /// Answers to another order with the same key.
    pub(crate) mixed_up: Vec<Option<Told>>,
}

/// The way to the service's processes.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    client: Client,
    ports: Vec<u16>,
    seen: Tally,
}

impl Link {
    pub(crate) fn new(ports: Vec<u16>, seen: Tally) -> Result<Self> {
        let client = Client::builder().timeout(Duration::from_secs(1)).no_proxy().build()?;
        Ok(Self { client, ports, seen })
    }

    /// The n-th intent, with all that its client does.
    pub(crate) async fn tell(&self, number: u64, seed: u64) -> Story {
        let mut dice = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let way = match dice.u8(..100) {
            0..78 => Way::Row,
            78..96 => Way::Job,
            _ => Way::Refused,
        };
        let order = Order { key: format!("intent-{number}"), cents: dice.i64(1..100_000), way };
        // An impatient client, or two devices of one user.
        let copies = if dice.u8(..20) == 0 { dice.u8(2..4) } else { 1 };
        let sending = (0..copies).map(|_| self.ask(&order, dice.fork()));
        let mut told = futures_util::future::join_all(sending).await;
        if dice.u8(..20) == 0 {
            told.push(self.ask(&order, dice.fork()).await);
            self.seen.one("replays");
        }
        let mut mixed_up = Vec::new();
        if dice.u8(..33) == 0 {
            let other = Order { cents: order.cents + 1, ..order.clone() };
            mixed_up.push(self.ask(&other, dice.fork()).await);
            self.seen.one("mixed_up");
        }
        Story { order, told, mixed_up }
    }

    /// Sends an order until there is a definitive answer.
    pub(crate) async fn ask(&self, order: &Order, mut dice: Rng) -> Option<Told> {
        let (begun, body) = (Instant::now(), serde_json::to_vec(order).ok()?);
        while begun.elapsed() < PATIENCE {
            let port = self.ports[dice.usize(..self.ports.len())];
            let request =
                self.client.post(format!("http://127.0.0.1:{port}/pay")).header(CONTENT_TYPE, "application/json");
            let sent = request.header("idempotency-key", format!("\"{}\"", order.key)).body(body.clone()).send().await;
            self.seen.one("requests");
            let told = match sent {
                Ok(response) => {
                    let status = response.status().as_u16();
                    if response.headers().contains_key("idempotency-replayed") {
                        self.seen.one("replayed");
                    }
                    // The answer may be cut off in its middle.
                    response.bytes().await.map(|body| Told { status, body: body.to_vec() })
                }
                Err(error) => Err(error),
            };
            match told {
                Ok(told) if selvedge::idempotency::is_definitive(told.status) => return Some(told),
                Ok(told) => self.seen.one(&format!("status_{}", told.status)),
                Err(error) if error.is_timeout() => self.seen.one("timed_out"),
                Err(_) => self.seen.one("cut_off"),
            }
            sleep(Duration::from_millis(dice.u64(2..80))).await;
        }
        self.seen.one("gave_up");
        None
    }
}
