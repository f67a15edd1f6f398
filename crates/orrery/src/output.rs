//! What the program says outside of its log: answers on standard output, errors on standard error.

use std::io::{self, Write as _};

/// Writes text to standard output. A reader who went away (`| head`) is no error.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes one error to standard error, after the program's name.
pub(crate) fn complain(sentence: &str) {
    // There is nobody left to tell when standard error is gone.
    let _ = writeln!(io::stderr().lock(), "orrery: {sentence}");
}
