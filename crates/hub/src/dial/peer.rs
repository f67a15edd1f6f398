//! Whose program stands at the other end of a connection on this machine.
//!
//! A port of the loopback can be taken by anybody who has an account here, when the program that should
//! have it is not up. What must reach only our own programs asks here first.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Accounts below are the system's own, no people's.
const FIRST_ORDINARY_UID: u32 = 1000;
const ESTABLISHED: u8 = 0x01;
const LISTEN: u8 = 0x0A;

/// The account of a stranger who serves this connection; `None` when it is ours, the system's, or
/// nobody can tell.
pub(super) fn stranger(client: SocketAddr, server: SocketAddr) -> Option<u32> {
    if !server.ip().to_canonical().is_loopback() {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .concat();
    let own = nix::unistd::geteuid().as_raw();
    owner(&tables, client, server).filter(|uid| *uid != own && *uid >= FIRST_ORDINARY_UID)
}

/// The owner of the server's end, as the kernel's tables show it.
fn owner(tables: &str, client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let ends = (canonical(server), canonical(client));
    let mut listener = None;
    for row in tables.lines().filter_map(Row::parse) {
        // A connection that waits to be accepted has no owner of its own yet.
        if row.state == ESTABLISHED && (row.local, row.remote) == ends && row.inode != 0 {
            return Some(row.uid);
        }
        if row.state == LISTEN && row.local.port() == server.port() {
            let is_exact = row.local.ip() == ends.0.ip();
            if is_exact || (row.local.ip().is_unspecified() && listener.is_none()) {
                listener = Some(row.uid);
            }
        }
    }
    listener
}

struct Row {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    uid: u32,
    inode: u64,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = address(fields.next()?)?;
        let remote = address(fields.next()?)?;
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        let mut fields = fields.skip(3);
        let uid = fields.next()?.parse().ok()?;
        let inode = fields.nth(1)?.parse().ok()?;
        Some(Self {
            local,
            remote,
            state,
            uid,
            inode,
        })
    }
}

/// `0100007F:1F41`: words of four bytes in the machine's order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for start in (0..ip.len()).step_by(8) {
        let word = u32::from_str_radix(ip.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    let ip = match *bytes.as_slice() {
        [a, b, c, d] => IpAddr::from(Ipv4Addr::new(a, b, c, d)),
        _ => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1001        0 4711 1 0 100 0 0 10 0
   1: 00000000:1F42 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1002        0 4712 1 0 100 0 0 10 0
   2: 0100007F:1F42 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
   3: 0100007F:1F43 0100007F:C001 01 00000000:00000000 00:00000000 00000000  1003        0 4714 1 0 20 4 0 10 -1
   4: 0100007F:1F43 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4715 1 0 20 4 0 10 -1
   5: 0100007F:1F43 0100007F:C002 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 0 10 -1
   6: 0000000000000000FFFF00000100007F:1F44 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000  1004        0 4716 1 0 20 4 0 10 -1
";

    #[test]
    fn the_owner_is_whose_end_it_is_before_whoever_listens() {
        let client: SocketAddr = "127.0.0.1:49153".parse().expect("an address");
        for (server, client_port, expected) in [
            ("127.0.0.1:8001", 0xC001, Some(1001)),
            ("127.0.0.1:8002", 0xC001, Some(0)),
            ("127.0.0.1:8003", 0xC001, Some(1003)),
            ("127.0.0.1:8003", 0xC002, Some(0)),
            ("127.0.0.1:8004", 0xC001, Some(1004)),
            ("127.0.0.1:8005", 0xC001, None),
        ] {
            let server = server.parse().expect("an address");
            let client = SocketAddr::new(client.ip(), client_port);
            if cfg!(target_endian = "little") {
                assert_eq!(owner(TABLE, client, server), expected, "{server}");
            }
        }
    }

    #[tokio::test]
    async fn a_listener_of_our_own_is_no_stranger() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let server = listener.local_addr().expect("bound");
        let stream = tokio::net::TcpStream::connect(server).await;
        let client = stream
            .as_ref()
            .expect("it listens")
            .local_addr()
            .expect("bound");
        assert_eq!(stranger(client, server), None);
        let tables = fs::read_to_string("/proc/net/tcp").expect("Linux has it");
        let own = nix::unistd::geteuid().as_raw();
        assert_eq!(owner(&tables, client, server), Some(own));
    }
}
