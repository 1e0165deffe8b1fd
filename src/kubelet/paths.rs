//! Where the two sockets are, and names for them that fit.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::KubeletError;

/// `sun_path` has 108 bytes with its NUL (`linux/un.h`).
const MAX_PATH: usize = 107;
/// `ResourceSlice.spec.driver`
const MAX_DRIVER: usize = 63;

/// The sockets of one instance of the driver, below the kubelet's root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketPaths {
    /// `plugins/<driver>/dra.sock`, or `dra-<podUID>.sock`: the DRA services.
    pub dra: PathBuf,
    /// `plugins_registry/<driver>@reg.sock`, or `<driver>-<podUID>@reg.sock`: where the kubelet looks for plugins.
    ///
    /// The `@` is there for the kubelet's `:authority`, which is this path percent-encoded: h2 takes `%` only in the
    /// userinfo, that is left of an `@`, and answers PROTOCOL_ERROR to every call otherwise.
    pub registration: PathBuf,
}

impl SocketPaths {
    /// The first names that fit 107 bytes. With a pod UID, old and new instances of a rolling update have sockets of
    /// their own; where the UID is too long for the path, its hash stands in.
    ///
    /// # Errors
    /// A directory that is not absolute or has an `@`; a driver name or pod UID that is not a plain name; no name fits.
    pub fn new(kubelet_dir: &Path, driver: &str, pod_uid: Option<&str>) -> Result<Self, KubeletError> {
        check_dir(kubelet_dir)?;
        check_name("driver name", driver)?;
        if driver.len() > MAX_DRIVER {
            return Err(KubeletError::Setting {
                what: "driver name",
                value: driver.to_owned(),
                problem: "is longer than the 63 characters that the API allows",
            });
        }
        if let Some(uid) = pod_uid {
            check_name("pod UID", uid)?;
        }
        let plugins = kubelet_dir.join("plugins").join(driver);
        let registry = kubelet_dir.join("plugins_registry");
        let both = hash(&format!("{driver}\0{}", pod_uid.unwrap_or_default()), 16);
        let (dra, registration) = match pod_uid {
            None => (
                vec!["dra.sock".to_owned()],
                vec![format!("{driver}@reg.sock"), format!("dra-{both}@reg.sock")],
            ),
            Some(uid) => {
                let short = hash(uid, 8);
                (
                    vec![format!("dra-{uid}.sock"), format!("dra-{short}.sock"), format!("{short}.sock")],
                    vec![
                        format!("{driver}-{uid}@reg.sock"),
                        format!("{driver}-{short}@reg.sock"),
                        format!("dra-{both}@reg.sock"),
                    ],
                )
            }
        };
        Ok(Self { dra: first_fit(&plugins, &dra)?, registration: first_fit(&registry, &registration)? })
    }
}

fn check_dir(dir: &Path) -> Result<(), KubeletError> {
    let problem = match dir.to_str() {
        None => "is not UTF-8, and the kubelet's protocol carries paths as UTF-8",
        Some(_) if !dir.is_absolute() => {
            "is not absolute: the kubelet is told the path and must find the same file"
        }
        Some(text) if text.contains('@') => {
            "contains `@`, which breaks the kubelet's calls to the registration socket: use another path to it"
        }
        Some(_) => return Ok(()),
    };
    Err(KubeletError::Setting { what: "kubelet directory", value: dir.display().to_string(), problem })
}

/// Stricter names are the API server's business; here it matters that they are one path component without `@`.
fn check_name(what: &'static str, name: &str) -> Result<(), KubeletError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(KubeletError::Setting {
            what,
            value: name.to_owned(),
            problem: "is not a name of letters, digits, `-` and `.`",
        });
    }
    Ok(())
}

fn first_fit(dir: &Path, names: &[String]) -> Result<PathBuf, KubeletError> {
    let mut shortest: Option<PathBuf> = None;
    for name in names {
        let path = dir.join(name);
        let length = path.as_os_str().len();
        if length <= MAX_PATH {
            return Ok(path);
        }
        if shortest.as_ref().is_none_or(|s| length < s.as_os_str().len()) {
            shortest = Some(path);
        }
    }
    let path = shortest.unwrap_or_else(|| dir.to_owned());
    Err(KubeletError::PathTooLong { length: path.as_os_str().len(), path, max: MAX_PATH })
}

/// The first `bytes` of the SHA-256, in the URL-safe base64 alphabet without padding.
fn hash(text: &str, bytes: usize) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digest = Sha256::digest(text.as_bytes());
    let mut out = String::new();
    let (mut acc, mut bits) = (0u32, 0u32);
    for byte in digest.iter().take(bytes) {
        acc = (acc << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 6 {
            bits -= 6;
            out.push(char::from(ALPHABET[(acc >> bits) as usize & 63]));
        }
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[(acc << (6 - bits)) as usize & 63]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "7b0b0d9e-3f9d-4a7c-9b6c-0d6c4b1f2a3e";

    fn paths(dir: &str, driver: &str, uid: Option<&str>) -> (String, String) {
        let p = SocketPaths::new(Path::new(dir), driver, uid).expect("paths");
        (p.dra.display().to_string(), p.registration.display().to_string())
    }

    #[test]
    fn short_names_are_the_documented_ones() {
        assert_eq!(
            paths("/var/lib/kubelet", "sriov-dra.io", None),
            (
                "/var/lib/kubelet/plugins/sriov-dra.io/dra.sock".into(),
                "/var/lib/kubelet/plugins_registry/sriov-dra.io@reg.sock".into()
            )
        );
        let (dra, reg) = paths("/var/lib/kubelet", "sriov-dra.io", Some(UID));
        assert_eq!(dra, format!("/var/lib/kubelet/plugins/sriov-dra.io/dra-{UID}.sock"));
        assert_eq!(reg, format!("/var/lib/kubelet/plugins_registry/sriov-dra.io-{UID}@reg.sock"));
    }

    #[test]
    fn a_hash_stands_in_for_what_does_not_fit_and_no_path_exceeds_107_bytes() {
        // Known value: printf 'abc' | sha256sum starts ba7816bf8f01cfea 414140de5dae2223.
        assert_eq!(hash("abc", 8), "ungWv48Bz-o");
        assert_eq!(hash("abc", 16), "ungWv48Bz-pBQUDeXa4iIw");
        for length in 1..=63 {
            let driver = "d".repeat(length);
            for uid in [None, Some(UID)] {
                let (dra, reg) = paths("/var/lib/kubelet", &driver, uid);
                for path in [&dra, &reg] {
                    assert!(path.len() <= 107, "{path}");
                }
                let file = reg.rsplit('/').next().unwrap_or_default();
                assert_eq!(reg.matches('@').count(), 1);
                assert!(
                    file.contains('@') && file.ends_with("@reg.sock") && !file.starts_with('.'),
                    "{file}"
                );
            }
        }
    }

    #[test]
    fn two_pods_never_share_a_socket() {
        let driver = "d".repeat(63);
        let a = paths("/var/lib/kubelet", &driver, Some(UID));
        let b = paths("/var/lib/kubelet", &driver, Some("11111111-3f9d-4a7c-9b6c-0d6c4b1f2a3e"));
        assert_ne!(a.0, b.0);
        assert_ne!(a.1, b.1);
    }

    #[test]
    fn what_cannot_work_is_one_sentence() {
        let err = |dir: &str, driver: &str, uid| {
            SocketPaths::new(Path::new(dir), driver, uid).expect_err("must be refused").to_string()
        };
        let long = format!("/{}", "x".repeat(100));
        let sentence = err(&long, "sriov-dra.io", None);
        assert!(
            sentence.contains("may have 107") && sentence.contains("shorter kubelet directory"),
            "{sentence}"
        );
        assert!(err("var/lib", "d.io", None).contains("not absolute"));
        assert!(err("/a@b", "d.io", None).contains('@'));
        assert!(err("/k", "../x", None).contains("driver name \"../x\""));
        assert!(err("/k", "", None).contains("driver name"));
        assert!(err("/k", "d.io", Some("a/b")).contains("pod UID"));
        assert!(err("/k", &"d".repeat(64), None).contains("63"));
    }
}
