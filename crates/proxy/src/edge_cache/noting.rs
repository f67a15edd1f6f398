//! An answer on its way to the client, noted for the cache if it may be kept.

use std::time::Instant;

use super::{Answer, EdgeCache, Key};

/// What has passed so far of the answer to a request that has a key.
pub(crate) struct Noting {
    key: Key,
    /// The answer's head, when it may be kept, and how long its body is.
    head: Option<(Answer, usize)>,
    body: Vec<u8>,
}

impl Noting {
    pub(crate) fn new(key: Key) -> Self {
        Self {
            key,
            head: None,
            body: Vec::new(),
        }
    }

    /// The answer's head has come, with these fields.
    pub(crate) fn head<'a>(
        &mut self,
        cache: &EdgeCache,
        status: u16,
        fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    ) {
        self.head = None;
        self.body.clear();
        if !matches!(status, 424 | 503) {
            return;
        }
        let fields: Vec<_> = fields.collect();
        let length = fields.iter().find_map(|(name, value)| {
            name.eq_ignore_ascii_case(b"content-length")
                .then(|| std::str::from_utf8(value).ok()?.trim().parse::<u64>().ok())
                .flatten()
        });
        if cache.may_store(&self.key, status, fields.iter().copied(), length) {
            let answer = Answer {
                status,
                headers: fields
                    .iter()
                    .map(|(name, value)| ((*name).into(), (*value).into()))
                    .collect(),
                body: Box::default(),
            };
            let length = length.and_then(|length| usize::try_from(length).ok());
            self.head = length.map(|length| (answer, length));
        }
    }

    /// A piece of its body.
    pub(crate) fn body(&mut self, piece: &[u8]) {
        match &self.head {
            Some((_, length)) if self.body.len() + piece.len() <= *length => {
                self.body.extend_from_slice(piece);
            }
            _ => self.head = None,
        }
    }

    /// The answer is complete; it is kept if it may be.
    pub(crate) fn finish(self, cache: &mut EdgeCache, now: Instant) {
        if let Some((mut answer, length)) = self.head
            && self.body.len() == length
        {
            answer.body = self.body.into();
            cache.put(self.key, answer, now);
        }
    }
}
