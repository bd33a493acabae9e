//! A real Redis for tests: on a free port, in a folder of its own, that ends with the process.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::Result;

use crate::keeper::Keeper;

/// It saves each write before it answers.
const LINE: &str =
    r#""$program" --bind 127.0.0.1 --port "$port" --dir "$folder" --save '' --appendonly yes --appendfsync always"#;

/// A private `redis-server` that keeps what it acknowledged. It stops, and its files go, when this is dropped and when the process
/// ends however it ends.
#[derive(Debug)]
pub struct RedisServer(Keeper);

impl RedisServer {
    /// Starts a server.
    ///
    /// # Errors
    /// When redis-server is not installed, with how to install it, or does not start.
    pub fn start() -> Result<Self> {
        Keeper::start("redis-server", LINE, pongs).map(Self)
    }

    /// Kills the server without a warning. Its files stay.
    ///
    /// # Errors
    /// When it has ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.0.kill()
    }

    /// Starts it again after [`RedisServer::kill`], on the same port and files, and waits until it answers.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.0.restart(pongs)
    }

    /// Its address for clients.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.0.port())
    }
}

/// While it loads what it kept it answers otherwise.
fn pongs(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"PING\r\n")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    Ok(answer == *b"+PONG")
}
