//! The native authenticators, one module each.
