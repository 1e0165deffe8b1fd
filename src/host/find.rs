//! Where a VF's netdev is: by PCI address, whatever its name.

use super::{HostError, Kernel, Link, Links};
use crate::device::{HwAddr, PciAddress};

/// How to recognise a VF's netdev.
#[derive(Debug, Clone)]
pub struct VfHandle<'a> {
    /// Its address: the key in any namespace.
    pub pci: PciAddress,
    /// Its link-layer address when nobody owned it, for stand-ins.
    pub hw_addr: Option<&'a HwAddr>,
    /// [`Kernel::has_stand_ins`]
    pub stand_in: bool,
}

impl VfHandle<'_> {
    /// Hardware is recognised by its PCI address alone. A stand-in without bus (a veth below a simulated sysfs tree)
    /// is recognised by the PCI address as its alias, or by its link-layer address.
    fn is(&self, link: &Link) -> bool {
        match link.pci {
            Some(pci) => pci == self.pci,
            None if !self.stand_in => false,
            None => {
                link.alias == self.pci.to_string()
                    || (self.hw_addr.is_some() && link.hw_addr.as_ref() == self.hw_addr)
            }
        }
    }
}

/// Looks for the VF in one namespace: under the expected names first, then among all links.
///
/// # Errors
/// When the kernel refuses to list links.
pub fn find_vf(
    links: &mut dyn Links,
    vf: &VfHandle<'_>,
    expected: &[&str],
) -> Result<Option<Link>, HostError> {
    for name in expected {
        if let Some(link) = links.by_name(name)?
            && vf.is(&link)
        {
            return Ok(Some(link));
        }
    }
    Ok(links.all()?.into_iter().find(|link| vf.is(link)))
}

/// A VF's netdev and a session where it is.
pub type FoundVf = Option<(Box<dyn Links>, Link)>;

/// Looks for the VF on the host, under the names sysfs gives it.
///
/// # Errors
/// When the host's namespace can't be entered or listed.
pub fn find_vf_on_host(kernel: &dyn Kernel, vf: &VfHandle<'_>) -> Result<FoundVf, HostError> {
    let names = kernel.netdev_names(vf.pci);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut links = kernel.enter(kernel.host())?;
    Ok(find_vf(links.as_mut(), vf, &names)?.map(|link| (links, link)))
}
