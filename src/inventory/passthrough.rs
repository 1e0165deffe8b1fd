//! Telling a VF that was passed into this VM from an ordinary NIC.
//!
//! A VM sees no `physfn`, and nothing else in sysfs says "virtual function". What remains is the PCI ID: vendors give
//! VFs IDs of their own. The bound driver is not asked: it changes when a claim binds the VF to another one, and the
//! VF would drop out of the slice. See `docs/decisions/0002-vf-inside-a-vm.md`.

use crate::host::sysfs::Function;

/// Vendor and device IDs that only VFs have, from the ID tables of the drivers named.
const VF_IDS: &[(u16, &[u16])] = &[
    // igbvf
    (0x8086, &[0x10ca, 0x1520]),
    // ixgbevf, the variants for Hyper-V guests included
    (0x8086, &[0x10ed, 0x152e, 0x1515, 0x1530, 0x1564, 0x1565, 0x15a8, 0x15a9, 0x15b4, 0x15c5]),
    // iavf
    (0x8086, &[0x154c, 0x1571, 0x37cd, 0x1889]),
    // mlx4_core
    (0x15b3, &[0x1002, 0x1004]),
    // mlx5_core; ConnectX-6 Dx and all later ones share 101e
    (0x15b3, &[0x1012, 0x1014, 0x1016, 0x1018, 0x101a, 0x101c, 0x101e, 0xa2d3]),
    // bnxt_en
    (0x14e4, &[0x1606, 0x1609, 0x16c1, 0x16c4, 0x16c5, 0x16cb, 0x16d3, 0x16dc, 0x16e1, 0x16e5, 0x16e6]),
    (0x14e4, &[0x1806, 0x1807, 0x1808, 0x1809, 0x1819, 0x181b, 0xd800]),
    // mana
    (0x1414, &[0x00ba]),
    // hclgevf
    (0x19e5, &[0xa22e, 0xa22f]),
];

/// Whether a function without `physfn` and without SR-IOV capability is a virtual one.
pub(super) fn is_virtual_function(function: &Function) -> bool {
    VF_IDS.iter().any(|(vendor, devices)| *vendor == function.vendor && devices.contains(&function.device))
}
