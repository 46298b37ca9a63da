//! A proxy between a service and a node, which makes the node as unreliable as nodes are: answers get lost, come late,
//! come from a node that lags behind, or say what is not true. It looks like several nodes of one chain, so that a
//! service may turn from one that lies to one that does not.
//!
//! It passes everything on as it is, until a [`Lie`] is armed: the next calls that the lie concerns are answered with
//! it, so many times. It counts what it has told, and never changes what the node itself does, but for keeping calls
//! from it.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use reqwest::Client;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use crate::ports;

/// What becomes of a call instead of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "lie", rename_all = "snake_case")]
pub enum Lie {
    /// A transaction reaches the node; its answer is held back for so many milliseconds, then the connection closes.
    Withheld {
        /// How long. Longer than the caller's patience makes it a timeout.
        milliseconds: u64,
    },
    /// The connection is reset.
    Reset {
        /// After the node got the call, not before.
        delivered: bool,
    },
    /// 429 Too Many Requests, as hosted nodes answer bursts.
    RateLimited,
    /// A 5xx status, with a page of HTML.
    ServerError {
        /// Which.
        status: u16,
    },
    /// The second half of the answer is missing.
    Truncated {
        /// The header promises the whole answer, and the connection closes in the middle of it; else the header
        /// promises the half.
        promised: bool,
    },
    /// The newest block is one from before.
    OldBlock {
        /// By so many blocks.
        behind: u64,
    },
    /// The account has sent fewer transactions than it has.
    OldNonce {
        /// By so many.
        behind: u64,
    },
    /// A transaction that is mined has no receipt.
    NoReceipt,
    /// A transaction is refused as known.
    AlreadyKnown {
        /// The node has got it all the same.
        delivered: bool,
    },
    /// A transaction is refused for a nonce that is used up.
    NonceTooLow {
        /// The node has got it all the same.
        delivered: bool,
    },
    /// A transaction is refused for the fees it offers.
    Underpriced {
        /// The node has got it all the same.
        delivered: bool,
    },
}

impl Lie {
    /// Whether a call of this method can be answered with it.
    #[must_use]
    pub fn concerns(self, method: &str) -> bool {
        match self {
            Self::Reset { .. } | Self::RateLimited | Self::ServerError { .. } | Self::Truncated { .. } => true,
            Self::Withheld { .. } | Self::AlreadyKnown { .. } | Self::NonceTooLow { .. } | Self::Underpriced { .. } => {
                method == "eth_sendRawTransaction"
            }
            Self::OldBlock { .. } => matches!(method, "eth_blockNumber" | "eth_getBlockByNumber"),
            Self::OldNonce { .. } => method == "eth_getTransactionCount",
            Self::NoReceipt => method == "eth_getTransactionReceipt",
        }
    }
}

/// A running proxy. Dropping it closes all its connections.
#[derive(Debug)]
pub struct RpcProxy {
    ports: Vec<u16>,
    node: Arc<Node>,
    servers: Vec<AbortHandle>,
}

/// Which of the nodes, as which the proxy appears, tell a lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liar {
    /// Whichever is asked first, and no other.
    One,
    /// All of them.
    All,
}

/// Names what [`RpcProxy::arm`] has armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Armed(u64);

impl RpcProxy {
    /// A proxy on free ports that looks like so many nodes, in front of the node at `url`.
    ///
    /// # Errors
    /// When there are no free ports.
    pub async fn start(url: &str, nodes: usize) -> Result<Self> {
        let node = Arc::new(Node {
            url: url.to_owned(),
            client: Client::builder().timeout(Duration::from_secs(30)).build()?,
            orders: Mutex::default(),
            count: AtomicU64::default(),
        });
        let mut proxy = Self { ports: Vec::new(), node, servers: Vec::new() };
        for at in 0..nodes {
            let port = ports::free()?;
            let listener = TcpListener::bind(("127.0.0.1", port)).await.context("cannot listen")?;
            proxy.ports.push(port);
            proxy.servers.push(tokio::spawn(listen(listener, Arc::clone(&proxy.node), at)).abort_handle());
        }
        Ok(proxy)
    }

    /// Where callers reach each of the nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    /// Answers the next `times` calls that it concerns with this lie. What was armed first has precedence.
    #[must_use]
    pub fn arm(&self, lie: Lie, times: u32, liar: Liar) -> Armed {
        let id = Armed(self.node.count.fetch_add(1, Ordering::Relaxed));
        lock(&self.node.orders).push(Order { id, lie, left: times, told: 0, liar, first: None });
        id
    }

    /// Tells the truth again; returns how often the lie was told.
    #[expect(clippy::must_use_candidate, reason = "to stop lying is enough for some")]
    pub fn disarm(&self, armed: Armed) -> u32 {
        let mut orders = lock(&self.node.orders);
        let at = orders.iter().position(|order| order.id == armed);
        at.map_or(0, |at| orders.remove(at).told)
    }

    /// How often a lie was told so far.
    #[must_use]
    pub fn told(&self, armed: Armed) -> u32 {
        lock(&self.node.orders).iter().find(|order| order.id == armed).map_or(0, |order| order.told)
    }
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        self.servers.iter().for_each(AbortHandle::abort);
    }
}

/// A lie that waits to be told.
#[derive(Debug)]
struct Order {
    id: Armed,
    lie: Lie,
    left: u32,
    told: u32,
    liar: Liar,
    /// Which node told it first.
    first: Option<usize>,
}

/// What the caller gets.
#[derive(Debug)]
enum Reply {
    Answer(Answer),
    Reset,
    Close,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    content_type: &'static str,
    body: Vec<u8>,
    /// How much of the body is sent, where that is not all.
    sent: Option<usize>,
}

impl Answer {
    fn json(body: Vec<u8>) -> Self {
        Self { status: 200, content_type: "application/json", body, sent: None }
    }
}

#[derive(Debug)]
struct Node {
    url: String,
    client: Client,
    orders: Mutex<Vec<Order>>,
    count: AtomicU64,
}

impl Node {
    async fn reply(&self, at: usize, body: Vec<u8>) -> Reply {
        let call: Value = serde_json::from_slice(&body).unwrap_or_default();
        let method = call["method"].as_str().unwrap_or_default();
        match self.next_lie(at, method) {
            Some(lie) => self.lie(lie, call, body).await.unwrap_or(Reply::Reset),
            // A node that is away looks like one that hangs up.
            None => self.truth(body).await.map_or(Reply::Reset, |body| Reply::Answer(Answer::json(body))),
        }
    }

    fn next_lie(&self, at: usize, method: &str) -> Option<Lie> {
        let mut orders = lock(&self.orders);
        let is_told = |order: &&mut Order| {
            let here = order.liar == Liar::All || order.first.is_none_or(|first| first == at);
            order.left > 0 && order.lie.concerns(method) && here
        };
        let order = orders.iter_mut().find(is_told)?;
        order.first.get_or_insert(at);
        order.left -= 1;
        order.told += 1;
        Some(order.lie)
    }

    async fn lie(&self, lie: Lie, call: Value, body: Vec<u8>) -> Result<Reply> {
        let refusal = |code: i64, message: &str| {
            let error = json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}});
            Reply::Answer(Answer::json(error.to_string().into_bytes()))
        };
        Ok(match lie {
            Lie::Withheld { milliseconds } => {
                self.truth(body).await?;
                sleep(Duration::from_millis(milliseconds)).await;
                Reply::Close
            }
            Lie::Reset { delivered } => {
                if delivered {
                    self.truth(body).await?;
                }
                Reply::Reset
            }
            Lie::RateLimited => Reply::Answer(Answer {
                status: 429,
                ..Answer::json(br#"{"jsonrpc":"2.0","error":{"code":429,"message":"Too Many Requests"}}"#.to_vec())
            }),
            Lie::ServerError { status } => Reply::Answer(Answer {
                status,
                content_type: "text/html",
                body: format!("<html><body><h1>{status}</h1></body></html>").into_bytes(),
                sent: None,
            }),
            Lie::Truncated { promised } => {
                let mut answer = Answer::json(self.truth(body).await?);
                let half = answer.body.len() / 2;
                if promised {
                    answer.sent = Some(half);
                } else {
                    answer.body.truncate(half);
                }
                Reply::Answer(answer)
            }
            Lie::OldBlock { behind } => Reply::Answer(Answer::json(self.old_block(call, behind).await?)),
            Lie::OldNonce { behind } => {
                let mut answer: Value = serde_json::from_slice(&self.truth(body).await?)?;
                answer["result"] = json!(less(&answer["result"], behind)?);
                Reply::Answer(Answer::json(serde_json::to_vec(&answer)?))
            }
            Lie::NoReceipt => {
                let answer = json!({"jsonrpc": "2.0", "id": call["id"], "result": null});
                Reply::Answer(Answer::json(answer.to_string().into_bytes()))
            }
            Lie::AlreadyKnown { delivered } | Lie::NonceTooLow { delivered } | Lie::Underpriced { delivered } => {
                if delivered {
                    self.truth(body).await?;
                }
                match lie {
                    Lie::AlreadyKnown { .. } => refusal(-32000, "already known"),
                    Lie::NonceTooLow { .. } => refusal(-32000, "nonce too low"),
                    _ => refusal(-32000, "replacement transaction underpriced"),
                }
            }
        })
    }

    /// The answer as of a block before the newest.
    async fn old_block(&self, mut call: Value, behind: u64) -> Result<Vec<u8>> {
        let newest = json!({"jsonrpc": "2.0", "id": call["id"], "method": "eth_blockNumber", "params": []});
        let mut answer: Value = serde_json::from_slice(&self.truth(newest.to_string().into_bytes()).await?)?;
        let old = json!(less(&answer["result"], behind)?);
        if call["method"] == "eth_blockNumber" {
            answer["result"] = old;
            return Ok(serde_json::to_vec(&answer)?);
        }
        if call["params"][0] == "latest" {
            call["params"][0] = old;
        }
        self.truth(serde_json::to_vec(&call)?).await
    }

    /// What the node answers.
    async fn truth(&self, body: Vec<u8>) -> Result<Vec<u8>> {
        let post = self.client.post(&self.url).header("content-type", "application/json").body(body);
        Ok(post.send().await?.bytes().await?.to_vec())
    }
}

/// A hexadecimal quantity less so much, at least zero.
fn less(quantity: &Value, by: u64) -> Result<String> {
    let digits = quantity.as_str().and_then(|text| text.strip_prefix("0x")).context("the node answers a quantity")?;
    Ok(format!("{:#x}", u64::from_str_radix(digits, 16)?.saturating_sub(by)))
}

async fn listen(listener: TcpListener, node: Arc<Node>, at: usize) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        if let Ok((socket, _)) = listener.accept().await {
            connections.spawn(serve(socket, Arc::clone(&node), at));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the calls of one connection, HTTP/1.1. By hand, since no server library breaks its promises on request.
async fn serve(mut socket: TcpStream, node: Arc<Node>, at: usize) -> io::Result<()> {
    let mut read = Vec::new();
    while let Some(body) = next_body(&mut socket, &mut read).await? {
        match node.reply(at, body).await {
            Reply::Answer(answer) => {
                let Answer { status, content_type, body, sent } = answer;
                let head = format!(
                    "HTTP/1.1 {status} -\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                socket.write_all(head.as_bytes()).await?;
                socket.write_all(&body[..sent.unwrap_or(body.len())]).await?;
                if sent.is_some() {
                    return Ok(());
                }
            }
            Reply::Reset => return socket.set_zero_linger(),
            Reply::Close => return Ok(()),
        }
    }
    Ok(())
}

/// The body of the next request, none when the caller has hung up.
async fn next_body(socket: &mut TcpStream, read: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let whole = end + 4 + length.unwrap_or(0);
            if read.len() >= whole {
                let rest = read.split_off(whole);
                let body = std::mem::replace(read, rest).split_off(end + 4);
                return Ok(Some(body));
            }
        }
        if socket.read_buf(read).await? == 0 {
            return Ok(None);
        }
    }
}

/// A poisoned lock guards nothing that a panic could have left half-done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lie_about_sending_concerns_nothing_else() {
        for lie in [Lie::Withheld { milliseconds: 1 }, Lie::AlreadyKnown { delivered: true }] {
            assert!(lie.concerns("eth_sendRawTransaction") && !lie.concerns("eth_blockNumber"));
        }
        assert!(Lie::RateLimited.concerns("eth_call"));
    }

    #[test]
    fn a_quantity_is_never_less_than_zero() {
        assert_eq!(less(&json!("0x10"), 3).unwrap(), "0xd");
        assert_eq!(less(&json!("0x1"), 3).unwrap(), "0x0");
        assert!(less(&Value::Null, 3).is_err());
    }
}
