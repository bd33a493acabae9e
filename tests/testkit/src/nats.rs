//! A real NATS server with JetStream for tests: on a free port, in a folder of its own, that ends with the process.

use std::{io::Read, net::TcpStream, time::Duration};

use anyhow::Result;

use crate::keeper::Keeper;

const LINE: &str =
    r#""$program" --jetstream --store_dir "$folder/data" --addr 127.0.0.1 --port "$port" --log "$folder/log""#;

/// A private `nats-server` with JetStream. It stops, and its files go, when this is dropped and when the process ends however
/// it ends.
#[derive(Debug)]
pub struct NatsServer(Keeper);

impl NatsServer {
    /// Starts a server.
    ///
    /// # Errors
    /// When nats-server is not installed, with how to install it, or does not start.
    pub fn start() -> Result<Self> {
        Keeper::start("nats-server", LINE, greets).map(Self)
    }

    /// Kills the server without a warning. Its files stay.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()
    }

    /// Starts it again after [`NatsServer::kill`], on the same port and files, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.0.restart(greets)
    }

    /// Its address for clients.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.0.port())
    }
}

fn greets(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting)?;
    Ok(greeting == *b"INFO ")
}
