//! Extended attributes of ext inodes.
//!
//! Owns: both places where they are kept, and access control lists, which are
//! stored more tightly than programs see them. See the kernel's
//! `fs/ext4/xattr.h` and `fs/ext4/acl.h`.

use launcher::Error;

use crate::tree::Attribute;
use crate::{le16, le32};

const MAGIC: u32 = 0xea02_0000;
const MOST: usize = 4096;

/// The attributes in an inode's tail and in its attribute block, which may be
/// empty. `value_of` reads a value that has an inode of its own. `None`: they
/// contradict themselves.
pub(super) fn parse(
    tail: &[u8],
    block: &[u8],
    value_of: &dyn Fn(u32) -> Result<Vec<u8>, Error>,
) -> Result<Option<Vec<Attribute>>, Error> {
    let mut all = Vec::new();
    if le32(tail, 0) == MAGIC {
        let area = tail.get(4..).unwrap_or_default();
        if !entries(area, area, value_of, &mut all)? {
            return Ok(None);
        }
    }
    if !block.is_empty() {
        let list = block.get(32..).unwrap_or_default();
        if le32(block, 0) != MAGIC || !entries(list, block, value_of, &mut all)? {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

fn entries(
    list: &[u8],
    values: &[u8],
    value_of: &dyn Fn(u32) -> Result<Vec<u8>, Error>,
    all: &mut Vec<Attribute>,
) -> Result<bool, Error> {
    let mut rest = list;
    while rest.len() >= 4 && le32(rest, 0) != 0 {
        let length = usize::from(rest.first().copied().unwrap_or(0));
        let index = rest.get(1).copied().unwrap_or(0);
        let (Some(name), true) = (rest.get(16..16 + length), all.len() < MOST) else {
            return Ok(false);
        };
        let (offset, inode, size) = (le16(rest, 2), le32(rest, 4), le32(rest, 8));
        let value = if inode != 0 {
            value_of(inode)?
        } else {
            let start = usize::from(offset);
            let Some(value) = usize::try_from(size)
                .ok()
                .and_then(|size| values.get(start..start.checked_add(size)?))
            else {
                return Ok(false);
            };
            value.to_vec()
        };
        if let Some(attribute) = attribute(index, name, value) {
            all.push(attribute);
        }
        rest = rest
            .get((16 + length).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    Ok(true)
}

fn attribute(index: u8, name: &[u8], value: Vec<u8>) -> Option<Attribute> {
    let (prefix, value) = match index {
        0 => ("", value),
        1 => ("user.", value),
        2 => ("system.posix_acl_access", access_list(&value)?),
        3 => ("system.posix_acl_default", access_list(&value)?),
        4 => ("trusted.", value),
        6 => ("security.", value),
        7 => ("system.", value),
        8 => ("system.richacl", value),
        _ => return None,
    };
    Some(([prefix.as_bytes(), name].concat(), value))
}

/// From the disk's form of an access control list (version 1, an id only where
/// there is one) to acl(5)'s extended attribute (version 2, always an id).
fn access_list(raw: &[u8]) -> Option<Vec<u8>> {
    const NAMED: [u16; 2] = [0x02, 0x08];
    if le32(raw, 0) != 1 {
        return None;
    }
    let mut list = 2_u32.to_le_bytes().to_vec();
    let mut rest = raw.get(4..)?;
    while rest.len() >= 4 {
        let tag = le16(rest, 0);
        list.extend(rest.get(..4)?);
        if NAMED.contains(&tag) {
            list.extend(rest.get(4..8)?);
            rest = rest.get(8..)?;
        } else {
            list.extend(u32::MAX.to_le_bytes());
            rest = rest.get(4..)?;
        }
    }
    Some(list)
}
