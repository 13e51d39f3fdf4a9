//! Integers out of byte slices.
//!
//! Owns: little- and big-endian fields at fixed places. Never: panics; a field
//! outside the slice reads as zero, which every caller excludes by handing over
//! a whole superblock.

macro_rules! field {
    ($name:ident, $type:ty, $from:ident) => {
        pub(crate) fn $name(bytes: &[u8], at: usize) -> $type {
            bytes
                .get(at..)
                .and_then(|rest| rest.first_chunk())
                .map_or(0, |chunk| <$type>::$from(*chunk))
        }
    };
}

field!(le16, u16, from_le_bytes);
field!(le32, u32, from_le_bytes);
field!(le64, u64, from_le_bytes);
field!(be16, u16, from_be_bytes);
field!(be32, u32, from_be_bytes);
field!(be64, u64, from_be_bytes);

/// A fixed-size copy of the bytes at a place; zeroes where there are none.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

/// The bytes before the first NUL: how C stores text in a fixed field.
pub(crate) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// The smallest multiple of `unit` that is not below `n`.
pub(crate) fn round_up(n: u64, unit: u64) -> u64 {
    n.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_their_byte_order_and_are_zero_outside() {
        let b = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(le16(&b, 0), 0x0201);
        assert_eq!(be16(&b, 6), 0x0708);
        assert_eq!(le32(&b, 4), 0x0807_0605);
        assert_eq!(be32(&b, 0), 0x0102_0304);
        assert_eq!(le64(&b, 0), 0x0807_0605_0403_0201);
        assert_eq!(be64(&b, 0), 0x0102_0304_0506_0708);
        assert_eq!(le32(&b, 5), 0);
        assert_eq!(le16(&b, usize::MAX), 0);
        assert_eq!(array::<2>(&b, 6), [7, 8]);
        assert_eq!(array::<2>(&b, 7), [0, 0]);
        assert_eq!(until_nul(b"ab\0c"), b"ab");
        assert_eq!(round_up(u64::MAX, 512), u64::MAX);
        assert_eq!(round_up(31, 512), 512);
    }
}
