//! How findings write numbers. Never rounds money.

/// How many percent of `most` are `used`, rounded down; of nothing, none.
pub(super) fn percent(used: u64, most: u64) -> u64 {
    let share = u128::from(used) * 100 / u128::from(most).max(1);
    if most == 0 { 0 } else { u64::try_from(share).unwrap_or(u64::MAX) }
}

/// `1.5 GiB`, with one place.
pub(super) fn bytes(count: u64) -> String {
    let mut unit = 1_u64;
    let mut name = "bytes";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if count < unit.saturating_mul(1024) {
            break;
        }
        unit = unit.saturating_mul(1024);
        name = larger;
    }
    if unit == 1 {
        return format!("{count} bytes");
    }
    format!("{}.{} {name}", count / unit, count % unit * 10 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(1023), "1023 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
        assert_eq!((percent(1, 2), percent(1, 0), percent(u64::MAX, 1)), (50, 0, u64::MAX));
    }
}
