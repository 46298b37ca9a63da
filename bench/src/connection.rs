//! One kept-alive HTTP/1.1 connection, as cheap as it gets: prepared bytes out, a status and a body in.
//!
//! The load generator shares two cores with all that it measures. This is all of HTTP that it needs: answers with a
//! `Content-Length`. Anything else is an error rather than a guess.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Headers that an answer may have.
const HEADERS: usize = 32;

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What was answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a whole request and reads the whole answer. After an error the connection is of no use any more.
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> io::Result<Answer<'_>> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Some(head) = Head::parse(&self.buffer)? {
                break head;
            }
        };
        let end = head.length + head.body;
        while self.buffer.len() < end {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(Answer { status: head.status, body: &self.buffer[head.length..end] })
    }
}

/// A request without a body.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes()
}

/// A request with a JSON body.
pub(crate) fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Bytes of the head.
    length: usize,
    /// Bytes of the body.
    body: usize,
}

impl Head {
    /// `None` where it has not arrived yet.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let malformed = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let httparse::Status::Complete(length) =
            response.parse(bytes).map_err(|error| malformed(&error.to_string()))?
        else {
            return Ok(None);
        };
        let status = response.code.ok_or_else(|| malformed("no status"))?;
        let value = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let body = value
            .and_then(|header| str::from_utf8(header.value).ok()?.trim().parse().ok())
            .ok_or_else(|| malformed("an answer without a content-length"))?;
        Ok(Some(Self { status, length, body }))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_there() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
        for cut in 0..answer.len() - 5 {
            assert_eq!(Head::parse(&answer[..cut]).unwrap(), None, "{cut}");
        }
        assert_eq!(Head::parse(answer).unwrap(), Some(Head { status: 202, length: answer.len() - 5, body: 5 }));
    }

    #[test]
    fn an_answer_of_unknown_length_is_an_error() {
        Head::parse(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap_err();
        Head::parse(b"SMTP\r\n\r\n").unwrap_err();
    }

    #[tokio::test]
    async fn answers_in_pieces_are_put_together_and_the_connection_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 256];
            for answer in [
                ["HTTP/1.1 202 Accepted\r\ncontent-", "length: 4\r\n\r\nab", "cd"],
                ["HTTP/1.1 503 No\r\n", "content-length: 0\r\n", "\r\n"],
            ] {
                assert!(stream.read(&mut request).await.unwrap() > 0);
                for piece in answer {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut connection = Connection::open(address).await.unwrap();
        assert_eq!(connection.exchange(&get("/")).await.unwrap(), Answer { status: 202, body: b"abcd" });
        assert_eq!(connection.exchange(&get("/")).await.unwrap(), Answer { status: 503, body: b"" });
        server.await.unwrap();
        connection.exchange(&get("/")).await.unwrap_err();
    }
}
