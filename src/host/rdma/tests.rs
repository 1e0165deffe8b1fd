//! Bytes as `rdma` sends them (a story of the guest asks it), and answers as kernels give them.

use super::*;

fn hex(text: &str) -> Vec<u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// `rdma dev set rxe0 netns pod`, with rxe0 as device 2 and the namespace as file 5; what rdma-core sends to find uverbs.
#[test]
#[cfg(target_endian = "little")]
fn what_is_sent_is_what_rdma_sends_for_the_same_wish() {
    assert_eq!(kind(RDMA_NLDEV_CMD_SET), 0x1402);
    assert_eq!(move_request(2, 5), hex("08 00 01 00 02 00 00 00 08 00 44 00 05 00 00 00"));
    let uverbs = "0b 00 45 00 75 76 65 72 62 73 00 00 08 00 01 00 02 00 00 00";
    assert_eq!(char_device_request("uverbs", Some(2), None), hex(uverbs));
    let umad = "09 00 45 00 75 6d 61 64 00 00 00 00 08 00 01 00 02 00 00 00 08 00 03 00 01 00 00 00";
    assert_eq!(char_device_request("umad", Some(2), Some(1)), hex(umad));
    assert_eq!(char_device_request("rdma_cm", None, None), hex("0c 00 45 00 72 64 6d 61 5f 63 6d 00"));
}

#[test]
fn devices_and_their_numbers_are_read_from_answers_and_half_of_one_is_none() {
    let mut answer = Vec::new();
    attribute(&mut answer, RDMA_NLDEV_ATTR_DEV_INDEX, &7u32.to_ne_bytes());
    attribute(&mut answer, RDMA_NLDEV_ATTR_DEV_NAME, b"mlx5_3\0");
    assert_eq!(link_of(&answer), Some(RdmaLink { index: 7, name: "mlx5_3".into(), ports: 1 }));
    attribute(&mut answer, RDMA_NLDEV_ATTR_PORT_INDEX, &2u32.to_ne_bytes());
    assert_eq!(link_of(&answer).unwrap().ports, 2);
    assert_eq!(link_of(&answer[..8]), None);

    let mut answer = Vec::new();
    attribute(&mut answer, RDMA_NLDEV_ATTR_CHARDEV_NAME, b"uverbs300\0");
    // Major 231, minor 0x1ed: huge_encode_dev puts the minor's high bits above the major.
    attribute(&mut answer, RDMA_NLDEV_ATTR_CHARDEV, &0x0010_e7ed_u64.to_ne_bytes());
    let path = "/dev/infiniband/uverbs300".to_owned();
    assert_eq!(char_device_of(&answer), Some(CharDevice { path, major: 231, minor: 0x1ed }));
    assert_eq!(char_device_of(&answer[..16]), None);
}
