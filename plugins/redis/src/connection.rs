//! One connection for all callers, made anew when it breaks.

use std::{
    fmt,
    future::Future,
    time::{Duration, Instant},
};

use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisError, aio::MultiplexedConnection};
use selvedge_core::Result;
use tokio::sync::Mutex;

use crate::error::{away, from_call, from_connect};

pub(crate) struct Connection {
    client: Client,
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the number of the connection: one that broke is told from the one that was made since.
    open: Option<(u64, MultiplexedConnection)>,
    number: u64,
    failed_at: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(client: Client, timeout: Duration) -> Self {
        Self { client, timeout, state: Mutex::default() }
    }

    /// Sends something over the connection. What breaks it costs this call; the next one connects again.
    pub(crate) async fn call<T, F>(
        &self,
        operation: &'static str,
        send: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T>
    where
        T: FromRedisValue,
        F: Future<Output = Result<T, RedisError>>,
    {
        let (number, connection) = self.open(operation).await?;
        match send(connection).await {
            Ok(answer) => Ok(answer),
            Err(error) => {
                if error.is_unrecoverable_error() || error.is_timeout() || error.is_io_error() {
                    self.close(number).await;
                }
                Err(from_call(operation, error))
            }
        }
    }

    async fn open(&self, operation: &'static str) -> Result<(u64, MultiplexedConnection)> {
        let begun = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(open) = &state.open {
            return Ok(open.clone());
        }
        // Whoever waited while another tried in vain does not wait for a try of its own.
        if state.failed_at.is_some_and(|at| at >= begun) {
            return Err(away(operation));
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            .set_response_timeout(Some(self.timeout));
        match self.client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                state.number += 1;
                let open = (state.number, connection);
                state.open = Some(open.clone());
                Ok(open)
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                Err(from_connect(operation, error))
            }
        }
    }

    async fn close(&self, number: u64) {
        let mut state = self.state.lock().await;
        if state.open.as_ref().is_some_and(|(open, _)| *open == number) {
            state.open = None;
        }
    }

    /// Where it leads, without secrets.
    pub(crate) fn location(&self) -> String {
        let info = self.client.get_connection_info();
        format!("{}/{}", info.addr(), info.redis_settings().db())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("location", &self.location()).finish_non_exhaustive()
    }
}
