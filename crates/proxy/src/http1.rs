//! HTTP/1.1 as bytes: heads and bodies, read strictly and written again without ambiguity.
//!
//! Nothing here does I/O. A message is taken apart once, by the rules of RFC 9112; what is sent on
//! is built from the parts, so each message that comes in goes out as exactly one, or not at all.

mod fields;
pub(crate) mod framing;
pub(crate) mod head;
