//! The W3C `traceparent`, `00-<trace id>-<span id>-<flags>`: how a trace goes
//! from one process to another, over HTTP and in a stream entry.

use crate::domain::{SpanId, TraceContext, TraceId};

/// The header, and the field of a stream entry.
pub const TRACEPARENT: &str = "traceparent";
/// The flag that says that a trace is recorded.
const SAMPLED: u8 = 1;

/// None when the text is not a valid `traceparent`; a request never fails by it.
pub fn parse(text: &str) -> Option<TraceContext> {
    let mut parts = text.split('-');
    let [version] = bytes(parts.next()?)?;
    let trace_id = TraceId::new(bytes(parts.next()?)?)?;
    let span_id = SpanId::new(bytes(parts.next()?)?)?;
    let [flags] = bytes(parts.next()?)?;
    // A later version may have more parts; this one has four.
    let fits = version != 0xff && (version != 0 || parts.next().is_none());
    let sampled = flags & SAMPLED == SAMPLED;
    fits.then_some(TraceContext { trace_id, span_id: Some(span_id), sampled })
}

/// None when the span is not known.
pub fn write(context: &TraceContext) -> Option<String> {
    let TraceContext { trace_id, span_id, sampled } = context;
    let flags = if *sampled { SAMPLED } else { 0 };
    span_id.map(|span_id| format!("00-{trace_id}-{span_id}-{flags:02x}"))
}

/// Reads exactly `2 * N` lower-case hexadecimal digits.
fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let pairs = hex.as_bytes().chunks(2);
    if hex.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = 16 * digit(pair[0])? + digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn it_is_written_as_it_was_read() {
        let context = parse(SENT).unwrap();
        assert_eq!(context.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(context.sampled);
        assert_eq!(write(&context).unwrap(), SENT);
        let unsampled = TraceContext { sampled: false, ..context };
        assert_eq!(write(&unsampled).unwrap(), SENT.replace("-01", "-00"));
        assert_eq!(write(&TraceContext { span_id: None, ..context }), None);
    }

    #[test]
    fn what_is_none_is_nothing() {
        let later = SENT.replacen("00", "cc", 1) + "-what-comes-then";
        assert!(parse(&later).is_some(), "later versions begin the same");
        for bad in [
            "",
            "00",
            "nonsense",
            &SENT.to_uppercase(),
            &SENT.replacen("00", "ff", 1),
            &SENT.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &SENT.replace("b7ad6b7169203331", &"0".repeat(16)),
            &SENT[..SENT.len() - 1],
            &format!("{SENT}-more"),
            &SENT.replace("b7", "\u{e9}"),
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
