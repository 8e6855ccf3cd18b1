//! The trace that a payment belongs to. Never knows how it is written or exported.

macro_rules! id {
    ($name:ident $bytes:literal $number:ident $format:literal $what:literal) => {
        #[doc = $what]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name([u8; $bytes]);

        impl $name {
            /// Nothing when all bytes are zero: that stands for none.
            pub fn new(bytes: [u8; $bytes]) -> Option<Self> {
                (bytes != [0; $bytes]).then_some(Self(bytes))
            }

            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, $format, $number::from_be_bytes(self.0))
            }
        }
    };
}

id!(TraceId 16 u128 "{:032x}" "A trace: 16 bytes, not all zero.");
id!(SpanId 8 u64 "{:016x}" "A span of a trace: 8 bytes, not all zero.");

/// A position in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    /// The parent span; none when only the trace is known.
    pub span_id: Option<SpanId>,
    pub sampled: bool,
}

impl TraceContext {
    /// Whether child spans are recorded.
    pub fn is_recorded(&self) -> bool {
        self.sampled && self.span_id.is_some()
    }

    /// The same trace, without a parent span.
    pub fn unparented(self) -> Self {
        Self { span_id: None, ..self }
    }
}
