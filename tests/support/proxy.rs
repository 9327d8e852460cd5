//! A proxy for plain HTTP in front of a storage server: slow, busy, forgetful or gone, as a test wants
//! it at the moment; and a log of what went through.
//!
//! What the client signed reaches the server byte for byte: request line, headers (`Host` too) and body.
//! Each client has a door of its own, so that the log says whose request it was. Requests of a connection
//! go one after the other; each gets a connection to the server of its own.

mod http;

use crate::Random;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What S3 says when it has too much to do.
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code>\
                         <Message>Please reduce your request rate.</Message></Error>";

/// A request that came in, in the order of their arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Since the proxy began.
    pub at: Duration,
    /// When its answer was there to be handed back, or to be withheld.
    pub until: Duration,
    /// The name of the door.
    pub client: String,
    pub method: String,
    /// Path and query, as they were sent.
    pub target: String,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server's status.
    Answered(u16),
    /// 503 by the proxy: the server has not seen it.
    Refused,
    /// The server has done it, and the client was not told.
    Lost,
    /// Nothing went through.
    Unreachable,
}

impl Logged {
    /// The key of an object below `root`; the prefix that is listed, for a list.
    pub fn key(&self, root: &str) -> Option<String> {
        let (path, query) = self
            .target
            .split_once('?')
            .unwrap_or((self.target.as_str(), ""));
        let listed = query
            .split('&')
            .find_map(|part| part.strip_prefix("prefix="))
            .map(|prefix| prefix.replace("%2F", "/"));
        let path = path.trim_start_matches('/');
        let (_bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let key = listed.unwrap_or_else(|| key.to_string());
        Some(key.strip_prefix(root)?.trim_matches('/').to_string())
    }

    /// As a store counts and charges it: a list is a GET with a prefix.
    pub fn kind(&self) -> &'static str {
        let is_list = self.target.contains("list-type=2");
        match self.method.as_str() {
            "GET" if is_list => "list",
            "GET" => "get",
            "HEAD" => "head",
            "PUT" => "put",
            "DELETE" => "delete",
            _ => "other",
        }
    }
}

/// Lives as long as the process.
pub struct Proxy {
    inner: Arc<Inner>,
}

struct Inner {
    server: SocketAddr,
    began_at: Instant,
    latency_us: AtomicU64,
    /// One request in so many; nought is never.
    refuse_every: AtomicU64,
    lose_every: AtomicU64,
    is_unreachable: AtomicBool,
    /// Part of the target of the PUT that is the last thing to go through.
    last_put: Mutex<Option<String>>,
    random: Mutex<Random>,
    log: Mutex<Vec<Logged>>,
    /// Of clients, to be cut when nothing goes through any more.
    connections: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// In front of a server's `http://` endpoint. The seed says which requests meet a fault.
    pub fn to(endpoint: &str, seed: u64) -> Self {
        let server = endpoint.strip_prefix("http://").expect("plain http");
        let inner = Inner {
            server: server.parse().expect("an address"),
            began_at: Instant::now(),
            latency_us: AtomicU64::new(0),
            refuse_every: AtomicU64::new(0),
            lose_every: AtomicU64::new(0),
            is_unreachable: AtomicBool::new(false),
            last_put: Mutex::default(),
            random: Mutex::new(Random(seed)),
            log: Mutex::default(),
            connections: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// An endpoint of a client's own.
    pub fn door(&self, client: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let (inner, client) = (Arc::clone(&self.inner), client.to_string());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let (inner, client) = (Arc::clone(&inner), client.clone());
                std::thread::spawn(move || inner.serve(connection, &client));
            }
        });
        format!("http://{address}")
    }

    /// Every request waits so long before it reaches the server.
    pub fn set_latency(&self, latency: Duration) {
        let latency_us = latency.as_micros() as u64;
        self.inner.latency_us.store(latency_us, Ordering::Relaxed);
    }

    /// 503 to one request in so many; nought ends it.
    pub fn refuse_one_in(&self, requests: u64) {
        self.inner.refuse_every.store(requests, Ordering::Relaxed);
    }

    /// One answer in so many is lost, after the server has done what was asked; nought ends it.
    pub fn lose_one_in(&self, answers: u64) {
        self.inner.lose_every.store(answers, Ordering::Relaxed);
    }

    /// While it is: connections that are open are cut, and new ones are closed at once.
    pub fn set_unreachable(&self, is_unreachable: bool) {
        self.inner.set_unreachable(is_unreachable);
    }

    /// The next PUT to a target that has `part` in it reaches the server, which does it; its answer is
    /// lost, and from then on nothing goes through.
    pub fn unreachable_after_put(&self, part: &str) {
        *locked(&self.inner.last_put) = Some(part.to_string());
    }

    /// Time as in the log.
    pub fn now(&self) -> Duration {
        self.inner.began_at.elapsed()
    }

    pub fn log(&self) -> Vec<Logged> {
        locked(&self.inner.log).clone()
    }

    /// What was answered or given up since then.
    pub fn log_since(&self, then: Duration) -> Vec<Logged> {
        let log = locked(&self.inner.log);
        let late = log.iter().rev().take_while(|logged| logged.until >= then);
        late.cloned().collect()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    fn set_unreachable(&self, is_unreachable: bool) {
        self.is_unreachable.store(is_unreachable, Ordering::SeqCst);
        if is_unreachable {
            for connection in locked(&self.connections).drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
    }

    fn is_last(&self, request: &http::Request) -> bool {
        let is_it =
            |part: &mut String| request.method == "PUT" && request.target.contains(part.as_str());
        locked(&self.last_put).take_if(is_it).is_some()
    }

    fn serve(&self, client: TcpStream, name: &str) {
        if self.is_unreachable.load(Ordering::SeqCst) {
            return;
        }
        // Answers are small, and the next request waits for all of them.
        let _ = client.set_nodelay(true);
        if let Ok(copy) = client.try_clone() {
            locked(&self.connections).push(copy);
        }
        let _ = self.relay(&client, name);
        let _ = client.shutdown(Shutdown::Both);
    }

    fn is_chosen(&self, every: &AtomicU64) -> bool {
        match every.load(Ordering::Relaxed) {
            0 => false,
            every => locked(&self.random).below(every) == 0,
        }
    }

    /// Request by request until one side has enough, or a fault ends the connection.
    fn relay(&self, client: &TcpStream, name: &str) -> std::io::Result<()> {
        let mut reader = std::io::BufReader::new(client.try_clone()?);
        while let Some(request) = http::read_request(&mut reader)? {
            let at = self.began_at.elapsed();
            let latency = Duration::from_micros(self.latency_us.load(Ordering::Relaxed));
            if !latency.is_zero() {
                std::thread::sleep(latency);
            }
            let (outcome, answer) = self.answer(&request);
            locked(&self.log).push(Logged {
                at,
                until: self.began_at.elapsed(),
                client: name.to_string(),
                method: request.method,
                target: request.target,
                outcome,
            });
            let Some(answer) = answer else {
                // Whoever is cut off by its put finds that in the log.
                if self.is_unreachable.load(Ordering::SeqCst) {
                    self.set_unreachable(true);
                }
                break;
            };
            http::write_answer(client, &answer)?;
        }
        Ok(())
    }

    /// What becomes of a request; nothing to hand back when the connection ends.
    fn answer(&self, request: &http::Request) -> (Outcome, Option<http::Answer>) {
        if self.is_unreachable.load(Ordering::SeqCst) {
            return (Outcome::Unreachable, None);
        }
        if self.is_chosen(&self.refuse_every) {
            return (Outcome::Refused, Some(http::Answer::error(503, SLOW_DOWN)));
        }
        match http::exchange(self.server, request) {
            Err(_) => (Outcome::Unreachable, None),
            Ok(_) if self.is_last(request) => {
                self.is_unreachable.store(true, Ordering::SeqCst);
                (Outcome::Lost, None)
            }
            Ok(_) if self.is_chosen(&self.lose_every) => (Outcome::Lost, None),
            Ok(answer) => (Outcome::Answered(answer.status), Some(answer)),
        }
    }
}

#[cfg(test)]
mod tests;
