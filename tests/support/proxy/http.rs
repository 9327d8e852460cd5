//! As much of HTTP/1.1 as storage clients and test servers speak: messages with a length, in chunks, or
//! until the end of the connection.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};

pub(super) struct Request {
    pub method: String,
    pub target: String,
    /// Request line, headers and body as they came.
    bytes: Vec<u8>,
}

pub(super) struct Answer {
    pub status: u16,
    /// Status line and headers, but for those that say how long the body is and what becomes of the
    /// connection.
    head: Vec<String>,
    /// What a HEAD says of the body that it does not bring.
    told_bytes: Option<u64>,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn error(status: u16, xml: &str) -> Self {
        Self {
            status,
            head: vec!["Content-Type: application/xml".into()],
            told_bytes: None,
            body: xml.into(),
        }
    }
}

/// How long a body is.
enum Length {
    Bytes(u64),
    Chunked,
    /// Nothing says so.
    Unknown,
}

/// The next request of a connection; `None` when there is none any more.
pub(super) fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let Some((head, mut bytes)) = read_head(reader)? else {
        return Ok(None);
    };
    let mut words = head[0].split(' ');
    let mut word = || words.next().unwrap_or_default().to_string();
    let (method, target) = (word(), word());
    match length(&head) {
        Length::Chunked => {
            read_chunks(reader, &mut bytes, &mut Vec::new())?;
        }
        Length::Bytes(count) => read_exactly(reader, count, &mut bytes)?,
        Length::Unknown => {}
    }
    Ok(Some(Request {
        method,
        target,
        bytes,
    }))
}

/// Sends a request as it is; the whole answer.
pub(super) fn exchange(server: SocketAddr, request: &Request) -> Result<Answer> {
    let mut connection = TcpStream::connect(server)?;
    connection.set_nodelay(true)?;
    connection.write_all(&request.bytes)?;
    let mut reader = BufReader::new(connection);
    let Some((head, _)) = read_head(&mut reader)? else {
        return Err(broken("the server closed the connection"));
    };
    let status = head[0].split(' ').nth(1).and_then(|code| code.parse().ok());
    let status: u16 = status.ok_or_else(|| broken(&head[0]))?;
    let (mut body, mut told_bytes) = (Vec::new(), None);
    match length(&head) {
        Length::Bytes(count) if request.method == "HEAD" => told_bytes = Some(count),
        _ if request.method == "HEAD" || [204, 304].contains(&status) => {}
        Length::Bytes(count) => read_exactly(&mut reader, count, &mut body)?,
        Length::Chunked => read_chunks(&mut reader, &mut Vec::new(), &mut body)?,
        Length::Unknown => {
            reader.read_to_end(&mut body)?;
        }
    }
    let own = [
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
    ];
    let kept = head.into_iter().skip(1).filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !own.contains(&name.to_ascii_lowercase().as_str())
    });
    Ok(Answer {
        status,
        head: kept.collect(),
        told_bytes,
        body,
    })
}

pub(super) fn write_answer(mut client: &TcpStream, answer: &Answer) -> Result<()> {
    let mut bytes = format!("HTTP/1.1 {} Relayed\r\n", answer.status).into_bytes();
    for line in &answer.head {
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if ![204, 304].contains(&answer.status) {
        let length = answer.told_bytes.unwrap_or(answer.body.len() as u64);
        bytes.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&answer.body);
    client.write_all(&bytes)
}

/// The lines of a head without their ends, and all of it as it came.
fn read_head(reader: &mut impl BufRead) -> Result<Option<(Vec<String>, Vec<u8>)>> {
    let (mut lines, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let start = bytes.len();
        if reader.read_until(b'\n', &mut bytes)? == 0 {
            return match start {
                0 => Ok(None),
                _ => Err(broken("a head that ends in the middle")),
            };
        }
        let line = String::from_utf8_lossy(&bytes[start..]);
        match line.trim_end_matches(['\r', '\n']) {
            "" if lines.is_empty() => bytes.clear(),
            "" => return Ok(Some((lines, bytes))),
            line => lines.push(line.to_string()),
        }
    }
}

fn length(head: &[String]) -> Length {
    let value = |wanted: &str| {
        head.iter().skip(1).find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        return Length::Chunked;
    }
    match value("content-length").and_then(|count| count.parse().ok()) {
        Some(count) => Length::Bytes(count),
        None => Length::Unknown,
    }
}

fn read_exactly(reader: &mut impl BufRead, count: u64, into: &mut Vec<u8>) -> Result<()> {
    match reader.take(count).read_to_end(into)? as u64 {
        read if read == count => Ok(()),
        _ => Err(broken("a body that ends in the middle")),
    }
}

/// A body in chunks: as it came, and what is in it.
fn read_chunks(reader: &mut impl BufRead, raw: &mut Vec<u8>, content: &mut Vec<u8>) -> Result<()> {
    loop {
        let start = raw.len();
        reader.read_until(b'\n', raw)?;
        let line = String::from_utf8_lossy(&raw[start..]);
        let digits = line.trim().split(';').next().unwrap_or_default();
        let count =
            u64::from_str_radix(digits, 16).map_err(|_| broken("a chunk without a size"))?;
        if count == 0 {
            // Trailers, and the line that ends them.
            while reader.read_until(b'\n', raw)? > 2 {}
            return Ok(());
        }
        read_exactly(reader, count, content)?;
        raw.extend_from_slice(&content[content.len() - count as usize..]);
        reader.read_until(b'\n', raw)?;
    }
}

fn broken(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidData, reason.to_string())
}
