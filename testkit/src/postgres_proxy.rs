//! A proxy between a service and PostgreSQL, which can cut a connection in the middle of a commit: before the server got
//! it, so that the transaction is lost, or after it was made durable, so that nobody is told.
//!
//! It looks for the simple query `COMMIT` in the bytes of the protocol, and passes everything else on as it is.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp},
    task::{AbortHandle, JoinSet},
};

use crate::ports;

/// The message of the protocol that commits: `Q`, its length, the query, a zero.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// A running proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub struct PostgresProxy {
    port: u16,
    orders: Arc<Orders>,
    server: AbortHandle,
}

impl PostgresProxy {
    /// A proxy on a free port, in front of the server at `address` (`host:port`).
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(address: &str) -> Result<Self> {
        let port = ports::free()?;
        let listener = TcpListener::bind(("127.0.0.1", port)).await.context("cannot listen")?;
        let orders = Arc::new(Orders::default());
        let server = tokio::spawn(listen(listener, address.to_owned(), Arc::clone(&orders))).abort_handle();
        Ok(Self { port, orders, server })
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the connections of the next `times` commits: after they are durable, or before the server gets them.
    pub fn cut_commits(&self, times: u32, durable: bool) {
        self.orders.durable.store(durable, Ordering::Relaxed);
        self.orders.left.store(times, Ordering::Relaxed);
    }

    /// How many commits were cut since they were last [spared](Self::spare_commits).
    #[must_use]
    pub fn commits_cut(&self) -> u32 {
        self.orders.cut.load(Ordering::Relaxed)
    }

    /// Cuts no more; returns how many commits were cut since the last time.
    #[must_use]
    pub fn spare_commits(&self) -> u32 {
        self.orders.left.store(0, Ordering::Relaxed);
        self.orders.cut.swap(0, Ordering::Relaxed)
    }
}

impl Drop for PostgresProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Debug, Default)]
struct Orders {
    left: AtomicU32,
    durable: AtomicBool,
    cut: AtomicU32,
}

impl Orders {
    /// Whether this commit is to be cut.
    fn take(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if taken {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }
}

async fn listen(listener: TcpListener, server: String, orders: Arc<Orders>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        if let Ok((client, _)) = listener.accept().await {
            connections.spawn(connection(client, server.clone(), Arc::clone(&orders)));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(mut client: TcpStream, server: String, orders: Arc<Orders>) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        // Set while a commit is under way whose answer nobody is to see.
        let mute = AtomicBool::new(false);
        tokio::select! {
            _ = requests(from_client, to_server, &orders, &mute) => {}
            _ = answers(from_server, to_client, &mute) => {}
        }
    }
    client.set_zero_linger()
}

/// Passes requests on until one is to be cut.
async fn requests(
    mut client: tcp::ReadHalf<'_>,
    mut server: tcp::WriteHalf<'_>,
    orders: &Orders,
    mute: &AtomicBool,
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(64 * 1024);
    while client.read_buf(&mut bytes).await? > 0 {
        // A client sends a commit by itself and waits for the answer, so it comes whole.
        if bytes.ends_with(COMMIT) && orders.take() {
            if !orders.durable.load(Ordering::Relaxed) {
                return Ok(());
            }
            mute.store(true, Ordering::Relaxed);
        }
        server.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}

/// Passes answers on until one is to be kept back.
async fn answers(mut server: tcp::ReadHalf<'_>, mut client: tcp::WriteHalf<'_>, mute: &AtomicBool) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(64 * 1024);
    while server.read_buf(&mut bytes).await? > 0 {
        if mute.load(Ordering::Relaxed) {
            return Ok(());
        }
        client.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}
