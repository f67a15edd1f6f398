//! Whether a file is on a network file system, where SQLite's locks and shared memory do not hold.

use std::{fs, io, path::Path};

/// Finds out on what kind of file system a path is, by name if it is on a network.
pub(crate) fn network_file_system(path: &Path, magic: i64) -> Option<String> {
    match u32::try_from(magic & 0xffff_ffff).ok()? {
        // Every file system in user space has this number; the table of mounts tells them apart.
        FUSE => {
            let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
            let path = fs::canonicalize(path).ok()?;
            let kind = mounted_at(&mounts, &path)?;
            FUSE_ON_NETWORK
                .iter()
                .any(|name| kind.starts_with(name))
                .then(|| kind.to_owned())
        }
        magic => KNOWN
            .iter()
            .find(|(known, _)| *known == magic)
            .map(|(_, name)| (*name).to_owned()),
    }
}

/// The number of the file system that `path` is on, from the operating system.
pub(crate) fn magic(path: &Path) -> io::Result<i64> {
    let found = nix::sys::statfs::statfs(path)?.filesystem_type();
    #[expect(
        clippy::useless_conversion,
        reason = "the number is narrower on some machines"
    )]
    Ok(i64::from(found.0))
}

const FUSE: u32 = 0x6573_5546;

/// From `statfs(2)` and the file systems' own sources.
const KNOWN: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x0102_1997, "9p"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0x7375_7245, "Coda"),
    (0x564c, "NCP"),
    (0xaad7_aaea, "PanFS"),
];

/// Beginnings of the kinds that the table of mounts has for file systems in user space that are on a
/// network.
const FUSE_ON_NETWORK: &[&str] = &[
    "fuse.sshfs",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.davfs",
    "fuse.juicefs",
    "fuse.moosefs",
    "fuse.mfs",
    "fuse.seaweedfs",
    "fuse.beegfs",
    "fuse.gcsfuse",
    "fuse.blobfuse",
    "fuse.mountpoint-s3",
    "fuse.smbnetfs",
    "fuse.curlftpfs",
];

/// The kind of file system that is mounted where `path` is, from the text of `/proc/self/mountinfo`.
fn mounted_at<'a>(mounts: &'a str, path: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            let point = before.split(' ').nth(4)?;
            let point = point.replace("\\040", " ");
            path.starts_with(&point)
                .then(|| (point.len(), after.split(' ').next().unwrap_or_default()))
        })
        // The last of those on the same place covers the others.
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_on_a_network_are_known_by_number_or_by_mount() {
        let here = Path::new("/");
        for (magic, name) in [
            (0x6969, Some("NFS")),
            (0xff53_4d42, Some("CIFS")),
            // Some machines hand the number over with its sign.
            (i64::from(0xff53_4d42_u32.cast_signed()), Some("CIFS")),
            (0x0102_1997, Some("9p")),
            (0x0bd0_0bd0, Some("Lustre")),
            (0xef53, None),
            (0x0102_1994, None),
        ] {
            assert_eq!(
                network_file_system(here, magic).as_deref(),
                name,
                "{magic:x}"
            );
        }
        let mounts = "\
22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
30 22 0:40 / /srv/far\\040away rw,nosuid shared:1 - fuse.sshfs me@there: rw\n\
31 22 0:41 / /srv/near rw - fuseblk /dev/sdb1 rw\n";
        for (path, kind) in [
            ("/srv/far away/hub.sqlite", "fuse.sshfs"),
            ("/srv/near/hub.sqlite", "fuseblk"),
            ("/srv/hub.sqlite", "ext4"),
        ] {
            assert_eq!(mounted_at(mounts, Path::new(path)), Some(kind), "{path}");
        }
    }

    #[test]
    fn the_operating_system_tells_the_number() {
        assert!(magic(Path::new("/proc")).unwrap() == 0x9fa0);
    }
}
