//! devlink: the mode of a PF's embedded switch.

use super::raw::{ask, attribute, find};
use super::{HostError, Netns};
use crate::device::{EswitchMode, PciAddress};

const NETLINK_GENERIC: isize = 16;
// include/uapi/linux/genetlink.h
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
// include/uapi/linux/devlink.h
const DEVLINK_CMD_ESWITCH_GET: u8 = 29;
const DEVLINK_ATTR_BUS_NAME: u16 = 1;
const DEVLINK_ATTR_DEV_NAME: u16 = 2;
const DEVLINK_ATTR_ESWITCH_MODE: u16 = 25;
/// `struct genlmsghdr`.
const GENL_HEADER: usize = 4;

/// A kernel with devlink.
#[derive(Debug, Clone)]
pub struct Devlink {
    netns: Netns,
    family: u16,
}

impl Devlink {
    /// `None` on a kernel (or in a user namespace) without devlink.
    pub fn open(netns: &Netns) -> Option<Self> {
        let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        attribute(&mut payload, CTRL_ATTR_FAMILY_NAME, b"devlink\0");
        let answer = ask(netns, NETLINK_GENERIC, GENL_ID_CTRL, &payload, "look up devlink").ok()??;
        Some(Self { netns: netns.clone(), family: family_of(&answer)? })
    }

    /// The mode, or `None` where the driver has no embedded switch to ask.
    ///
    /// # Errors
    /// Whatever else the kernel refuses; reading needs CAP_NET_ADMIN.
    pub fn eswitch_mode(&self, pf: PciAddress) -> Result<Option<EswitchMode>, HostError> {
        let mut payload = vec![DEVLINK_CMD_ESWITCH_GET, 1, 0, 0];
        attribute(&mut payload, DEVLINK_ATTR_BUS_NAME, b"pci\0");
        attribute(&mut payload, DEVLINK_ATTR_DEV_NAME, format!("{pf}\0").as_bytes());
        let what = format!("read the eswitch mode of PF {pf}");
        let answer = match ask(&self.netns, NETLINK_GENERIC, self.family, &payload, &what) {
            Ok(answer) => answer,
            // No such devlink device, or a driver without the operation.
            Err(error)
                if matches!(
                    error.errno(),
                    Some(nix::libc::ENODEV | nix::libc::EOPNOTSUPP | nix::libc::EINVAL)
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        Ok(answer.as_deref().and_then(mode_of))
    }
}

pub(super) fn family_of(answer: &[u8]) -> Option<u16> {
    let id = find(answer.get(GENL_HEADER..)?, CTRL_ATTR_FAMILY_ID)?;
    Some(u16::from_ne_bytes(id.try_into().ok()?))
}

pub(super) fn mode_of(answer: &[u8]) -> Option<EswitchMode> {
    match find(answer.get(GENL_HEADER..)?, DEVLINK_ATTR_ESWITCH_MODE)? {
        [0, 0] => Some(EswitchMode::Legacy),
        &[a, b] if u16::from_ne_bytes([a, b]) == 1 => Some(EswitchMode::Switchdev),
        _ => None,
    }
}
