//! Kafka's variable-length integers: zigzag, seven bits a byte, the lowest first.

/// Takes an `i64` from the front of `bytes`; `None` where they end within it or it does not end.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let mut raw = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        let bits = u64::from(byte & 0x7f);
        if i == 9 && bits > 1 {
            return None;
        }
        raw |= bits << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some((raw >> 1) as i64 ^ -((raw & 1) as i64));
        }
    }
    None
}

/// The same for an `i32`, which takes at most five bytes.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    let mut rest = *bytes;
    let value = i32::try_from(take_i64(&mut rest)?).ok()?;
    if bytes.len() - rest.len() > 5 {
        return None;
    }
    *bytes = rest;
    Some(value)
}

/// Appends `value`.
#[inline]
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

/// How many bytes [`put`] appends for `value`.
#[inline]
pub(super) fn size(value: i64) -> usize {
    let raw = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (raw | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(value: i64, narrow in -300i64..300, tail: u8) {
            for value in [value, narrow, i64::from(value as i32), i64::MAX, i64::MIN, 0] {
                let mut out = Vec::new();
                put(&mut out, value);
                prop_assert_eq!(out.len(), size(value));
                out.push(tail);
                let mut rest = &out[..];
                prop_assert_eq!(take_i64(&mut rest), Some(value));
                prop_assert_eq!(rest, &[tail][..]);
                let mut rest = &out[..];
                prop_assert_eq!(take_i32(&mut rest), i32::try_from(value).ok());
            }
        }
    }

    #[test]
    fn a_number_that_does_not_end_is_none() {
        assert_eq!(take_i64(&mut &[0x80; 20][..]), None);
        assert_eq!(take_i64(&mut &[0xff; 9][..]), None);
        assert_eq!(take_i64(&mut &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02][..]), None);
        assert_eq!(take_i32(&mut &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..]), None);
        assert_eq!(take_i64(&mut &[][..]), None);
    }
}
