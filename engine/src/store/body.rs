//! Bodies that break half way are read on from where they broke.
//!
//! A large body over a bad link may never arrive in one piece, however often it is begun anew. What
//! has arrived is kept between the tries of one request; the next one asks for the rest.
//!
//! Invariant: what is put together is of one object: every request after the first names the tag that
//! the first answer had. When that object is no longer there, or had no tag, the body begins anew.

use super::rooted::{Rooted, add};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use object_store::path::Path;
use object_store::{Attributes, Error, GetOptions, GetRange, GetResult, ObjectMeta, Result};
use parking_lot::Mutex;
use std::ops::Range;

/// What came of a read.
pub(super) enum Read {
    Whole(Body),
    /// The object has more bytes than the caller would take: this many.
    TooLarge(u64),
}

/// An answer and as much of its body as has arrived.
pub(super) struct Body {
    pub meta: ObjectMeta,
    pub attributes: Attributes,
    pub range: Range<u64>,
    arrived: Arrived,
}

/// One chunk is kept as it came; more are copied together.
#[derive(Default)]
struct Arrived {
    first: Bytes,
    all: BytesMut,
}

impl Arrived {
    fn len(&self) -> u64 {
        self.first.len().max(self.all.len()) as u64
    }

    fn push(&mut self, chunk: Bytes, wanted_bytes: u64) {
        if self.first.is_empty() {
            self.first = chunk;
            return;
        }
        if self.all.is_empty() {
            self.all.reserve(wanted_bytes as usize);
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        match self.all.is_empty() {
            true => self.first,
            false => self.all.freeze(),
        }
    }
}

impl Body {
    fn begin(result: &GetResult) -> Self {
        Self {
            meta: result.meta.clone(),
            attributes: result.attributes.clone(),
            range: result.range.clone(),
            arrived: Arrived::default(),
        }
    }

    fn missing(&self) -> Range<u64> {
        self.range.start + self.arrived.len()..self.range.end
    }

    /// The request for the rest; `None` when there is nothing to go on from.
    fn rest(&self, options: &GetOptions) -> Option<GetOptions> {
        let tag = self.meta.e_tag.clone()?;
        let is_part = self.arrived.len() > 0 && !self.missing().is_empty();
        is_part.then(|| GetOptions {
            range: Some(GetRange::Bounded(self.missing())),
            if_match: Some(tag),
            // They have been decided.
            if_none_match: None,
            if_modified_since: None,
            if_unmodified_since: None,
            ..options.clone()
        })
    }

    fn goes_on_with(&self, rest: &GetResult) -> bool {
        rest.range == self.missing() && rest.meta.e_tag == self.meta.e_tag
    }

    pub fn into_bytes(self) -> Bytes {
        self.arrived.into_bytes()
    }
}

impl Rooted {
    /// Reads an object, or the range that the options name, inside one deadline. Refuses an object of
    /// more than `bytes_max` bytes before its body is read.
    pub(super) async fn read(
        &self,
        path: &Path,
        options: &GetOptions,
        bytes_max: u64,
    ) -> Result<Read> {
        let kept = Mutex::new(None);
        let attempt = || self.read_on(path, options, bytes_max, &kept);
        self.retry.run(attempt).await
    }

    /// Reads until an answer brings nothing: one that breaks after it brought something is no failure
    /// of the store, and is gone on from after the shortest pause.
    async fn read_on(
        &self,
        path: &Path,
        options: &GetOptions,
        bytes_max: u64,
        kept: &Mutex<Option<Body>>,
    ) -> Result<Read> {
        loop {
            let (mut body, result) = match self.request_rest(path, options, kept).await? {
                Some(going_on) => going_on,
                None => {
                    let result = self.request(path, options.clone()).await?;
                    (Body::begin(&result), result)
                }
            };
            if body.meta.size > bytes_max {
                return Ok(Read::TooLarge(body.meta.size));
            }
            let before_bytes = body.arrived.len();
            let broken = match self.drain(result, &mut body).await {
                Ok(()) if body.missing().is_empty() => return Ok(Read::Whole(body)),
                Ok(()) => ended_early(path, &body),
                Err(error) => error,
            };
            let has_gone_on = body.arrived.len() > before_bytes && body.rest(options).is_some();
            *kept.lock() = Some(body);
            if !has_gone_on {
                return Err(broken);
            }
            tracing::debug!(%path, error = %broken, "an answer broke, reading on");
            tokio::time::sleep(self.retry.pause(0)).await;
        }
    }

    async fn drain(&self, result: GetResult, body: &mut Body) -> Result<()> {
        let wanted_bytes = body.range.end.saturating_sub(body.range.start);
        let mut stream = result.into_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk?;
            add(&self.counters.read_bytes, chunk.len() as u64);
            body.arrived.push(chunk, wanted_bytes);
        }
        Ok(())
    }

    /// The rest of a body that was begun, unless its object has changed or cannot be told from others.
    async fn request_rest(
        &self,
        path: &Path,
        options: &GetOptions,
        kept: &Mutex<Option<Body>>,
    ) -> Result<Option<(Body, GetResult)>> {
        let begun = kept.lock().take();
        let Some((body, rest)) = begun.and_then(|body| body.rest(options).map(|rest| (body, rest)))
        else {
            return Ok(None);
        };
        match self.request(path, rest).await {
            Ok(result) if body.goes_on_with(&result) => Ok(Some((body, result))),
            Ok(_) | Err(Error::Precondition { .. }) => Ok(None),
            Err(error) => {
                *kept.lock() = Some(body);
                Err(error)
            }
        }
    }

    async fn request(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        add(&self.counters.get_count, 1);
        self.inner.get_opts(path, options).await
    }
}

fn ended_early(path: &Path, body: &Body) -> Error {
    Error::Generic {
        store: "meadow",
        source: format!(
            "the answer for {path} ended at byte {} of {}",
            body.missing().start,
            body.range.end
        )
        .into(),
    }
}
