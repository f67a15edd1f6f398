//! Randomness from the operating system.

/// `N` unpredictable bytes. The operating system's generator failing is not survivable: nothing that
/// the hub signs or hands out afterwards could be trusted.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    getrandom::fill(&mut buffer).expect("the operating system's random generator answers");
    buffer
}

/// `count` unpredictable bytes in lower-case hexadecimal (twice as many characters).
pub fn hex<const N: usize>() -> String {
    to_hex(&bytes::<N>())
}

/// Lower-case hexadecimal of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
