//! Bytes as `rdma` sends them (a story of the guest asks it), and answers as kernels give them.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// `rdma dev set rxe0 netns pod`, with rxe0 as device 2 and the namespace as file 5; and what rdma-core sends to find uverbs.
#[test]
#[cfg(target_endian = "little")]
fn what_is_sent_is_what_rdma_sends_for_the_same_wish() {
    assert_eq!(kind(RDMA_NLDEV_CMD_SET), 0x1402);
    assert_eq!(move_request(2, 5), hex("08 00 01 00 02 00 00 00 08 00 44 00 05 00 00 00"));
    let uverbs = "08 00 01 00 02 00 00 00 0b 00 45 00 75 76 65 72 62 73 00 00";
    assert_eq!(char_device_request("uverbs", Some(2), None), hex(uverbs));
    let umad = "08 00 01 00 02 00 00 00 09 00 45 00 75 6d 61 64 00 00 00 00 08 00 03 00 01 00 00 00";
    assert_eq!(char_device_request("umad", Some(2), Some(1)), hex(umad));
    assert_eq!(char_device_request("rdma_cm", None, None), hex("0c 00 45 00 72 64 6d 61 5f 63 6d 00"));
}

/// Of a soft RoCE device on kernel 6.12, as strace showed them to `ibv_devinfo`.
#[test]
#[cfg(target_endian = "little")]
fn devices_and_their_numbers_are_read_from_answers_and_half_of_one_is_none() {
    let answer = hex("08 00 01 00 01 00 00 00 09 00 02 00 72 78 65 31 00 00 00 00 08 00 03 00 01 00 00 00 \
         0c 00 04 00 76 3c 22 01 c0 01 00 00 0c 00 06 00 f0 00 ce fe ff 12 e4 28 05 00 0e 00 01 00 00 00 \
         09 00 43 00 72 6f 63 65 00 00 00 00");
    assert_eq!(link_of(&answer), Some(RdmaLink { index: 1, name: "rxe1".into(), ports: 1 }));
    assert_eq!(link_of(&answer[..8]), None);

    let answer = hex(
        "08 00 49 00 0e 00 00 00 0c 00 48 00 c1 e7 00 00 00 00 00 00 0c 00 47 00 02 00 00 00 00 00 00 00 \
         0c 00 46 00 75 76 65 72 62 73 31 00",
    );
    let device = |path: &str, minor| CharDevice { path: path.to_owned(), major: 231, minor };
    assert_eq!(char_device_of(&answer), Some(device("/dev/infiniband/uverbs1", 193)));
    assert_eq!(char_device_of(&answer[..20]), None);
    // Of a large minor the high bits stand above the major.
    let mut answer = Vec::new();
    attribute(&mut answer, RDMA_NLDEV_ATTR_CHARDEV_NAME, b"uverbs300\0");
    attribute(&mut answer, RDMA_NLDEV_ATTR_CHARDEV, &0x0010_e7ed_u64.to_ne_bytes());
    assert_eq!(char_device_of(&answer), Some(device("/dev/infiniband/uverbs300", 0x1ed)));
}
