//! A bad link: every connection through it breaks after so many bytes of answers.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub struct BadLink {
    pub endpoint: String,
    broken: Arc<AtomicU64>,
}

impl BadLink {
    /// In front of a server's `http://` endpoint; lives as long as the process.
    pub fn to(endpoint: &str, answer_bytes: usize) -> Self {
        let server = endpoint.strip_prefix("http://").expect("plain http");
        let server: SocketAddr = server.parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let broken = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&broken);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || {
                    if relay(client, server, answer_bytes).unwrap_or(false) {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self {
            endpoint: format!("http://{address}"),
            broken,
        }
    }

    /// Connections that broke.
    pub fn broken(&self) -> u64 {
        self.broken.load(Ordering::Relaxed)
    }
}

/// Whether the link broke before one of the sides had enough.
fn relay(client: TcpStream, server: SocketAddr, answer_bytes: usize) -> std::io::Result<bool> {
    let server = TcpStream::connect(server)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    let mut left = answer_bytes;
    let mut buffer = vec![0; 16 << 10];
    while left > 0 {
        let room = left.min(buffer.len());
        let count = from_server.read(&mut buffer[..room])?;
        if count == 0 {
            to_client.shutdown(Shutdown::Both)?;
            return Ok(false);
        }
        to_client.write_all(&buffer[..count])?;
        left -= count;
    }
    to_client.shutdown(Shutdown::Both)?;
    from_server.shutdown(Shutdown::Both)?;
    Ok(true)
}
