//! The Castagnoli CRC that EROFS and ext4 put over their superblocks.
//!
//! Owns: the running remainder, without the customary inversion at either end:
//! the kernel's `crc32c()` leaves that to its callers, and the two file systems
//! start from all ones and do not invert the result. Never: anything fast; one
//! superblock is a few kilobytes.

const REFLECTED_POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut remainder = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            let carry = remainder & 1 != 0;
            remainder >>= 1;
            if carry {
                remainder ^= REFLECTED_POLYNOMIAL;
            }
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

/// Carries the remainder `crc` on over `bytes`.
pub fn extend(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        let index = usize::from(crc as u8 ^ byte);
        (crc >> 8) ^ TABLE.get(index).copied().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::extend;

    #[test]
    fn published_vectors_are_met() {
        // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
        let ascending: Vec<u8> = (0..32).collect();
        let descending: Vec<u8> = (0..32).rev().collect();
        let table: [(&[u8], u32); 5] = [
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (&descending, 0x113f_db5c),
        ];
        for (input, expected) in table {
            assert_eq!(!extend(!0, input), expected, "{input:02x?}");
        }
    }

    #[test]
    fn a_sum_in_two_pieces_is_the_sum_of_the_whole() {
        assert_eq!(
            extend(extend(!0, b"12345"), b"6789"),
            extend(!0, b"123456789")
        );
    }
}
