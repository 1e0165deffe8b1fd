//! A writer of ustar archives (POSIX.1-1988), as much as an image needs: folders, files, symbolic links.
//!
//! Written by hand because the format is one 512-byte header and the archive must not depend on owner, time or
//! platform; nothing here reads archives.

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative path without a leading or trailing `/`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: Kind,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Dir,
    /// A file with its content.
    File(Vec<u8>),
    /// A symbolic link and where it points.
    Symlink(String),
}

impl Entry {
    /// A folder.
    pub fn dir(path: impl Into<String>, mode: u32) -> Self {
        Self { path: path.into(), mode, kind: Kind::Dir }
    }

    /// A file.
    pub fn file(path: impl Into<String>, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), mode, kind: Kind::File(content.into()) }
    }

    /// A symbolic link.
    pub fn symlink(path: impl Into<String>, target: impl Into<String>) -> Self {
        Self { path: path.into(), mode: 0o777, kind: Kind::Symlink(target.into()) }
    }
}

/// What ustar can't hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// A name or link target that does not fit its field.
    #[error("{0:?} does not fit a tar header, which has room for {1} bytes")]
    TooLong(String, usize),
    /// Eleven octal digits: 8 GiB.
    #[error("{0:?} is too large for a tar header: {1} bytes, at most 8 GiB are possible")]
    TooLarge(String, usize),
}

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// Header and content come in blocks of this size.
const BLOCK: usize = 512;
/// Bytes of the name field.
const NAME: usize = 100;

impl Tar {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member.
    ///
    /// # Errors
    /// [`TarError`] where the format has no room for it; the archive is as before then.
    pub fn push(&mut self, entry: &Entry) -> Result<(), TarError> {
        let (kind, size, link): (u8, usize, &str) = match &entry.kind {
            Kind::Dir => (b'5', 0, ""),
            Kind::File(content) => (b'0', content.len(), ""),
            Kind::Symlink(target) => (b'2', 0, target),
        };
        let path = if kind == b'5' { format!("{}/", entry.path) } else { entry.path.clone() };
        for text in [path.as_str(), link] {
            if text.len() > NAME {
                return Err(TarError::TooLong(text.to_owned(), NAME));
            }
        }
        if size >= 1 << 33 {
            return Err(TarError::TooLarge(entry.path.clone(), size));
        }
        let mut header = [0u8; BLOCK];
        put(&mut header, 0, path.as_bytes());
        put(&mut header, 100, format!("{:07o}", entry.mode & 0o7777).as_bytes());
        put(&mut header, 108, b"0000000"); // owner
        put(&mut header, 116, b"0000000"); // group
        put(&mut header, 124, format!("{size:011o}").as_bytes());
        put(&mut header, 136, b"00000000000"); // time
        put(&mut header, 156, &[kind]);
        put(&mut header, 157, link.as_bytes());
        put(&mut header, 257, b"ustar\x0000");
        // The checksum counts its own field as spaces.
        put(&mut header, 148, b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        if let Kind::File(content) = &entry.kind {
            self.bytes.extend_from_slice(content);
            self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        }
        Ok(())
    }

    /// The archive with its two closing blocks.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }
}

fn put(header: &mut [u8; BLOCK], at: usize, value: &[u8]) {
    header[at..at + value.len()].copy_from_slice(value);
}
