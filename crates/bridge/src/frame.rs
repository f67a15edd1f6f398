//! Frames on a pipe: four bytes of length, big-endian, then that many bytes of JSON.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// No frame is larger; a configuration of this size is a mistake.
pub(crate) const LARGEST: usize = 16 * 1024 * 1024;

pub(crate) async fn write(pipe: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| too_large())?;
    pipe.write_all(&length.to_be_bytes()).await?;
    pipe.write_all(bytes).await?;
    pipe.flush().await
}

/// Reads one frame; `None` if the other side closed the pipe before one began.
pub(crate) async fn read(pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match pipe.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| too_large())?;
    if length > LARGEST {
        return Err(too_large());
    }
    let mut bytes = vec![0; length];
    pipe.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the frame is larger than 16 MB")
}
