//! Texts from outside: why one is refused, and how one is shown safely. Never changes a
//! stored text.

/// Why a value was refused: a stable code and a sentence that completes
/// "this field …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Stable, for programs: `too_many_decimals`.
    pub code: &'static str,
    /// For people: "must have at most two decimal places".
    pub reason: &'static str,
}

impl Invalid {
    pub(crate) const fn new(code: &'static str, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

/// Whether a text can be a name: of so many bytes at most, each of which fits.
pub(super) fn name(
    text: &str,
    fits: impl Fn(u8) -> bool,
    bad: &'static str,
    length_max: usize,
    long: Invalid,
) -> Result<(), Invalid> {
    match text.len() {
        0 => Err(Invalid::new("empty", "must not be empty")),
        length if length > length_max => Err(long),
        _ if text.bytes().all(fits) => Ok(()),
        _ => Err(Invalid::new("bad_character", bad)),
    }
}

/// Whether a text has no control characters, no invisible ones, and none that change the
/// direction or the line of the text around them.
pub fn is_plain(text: &str) -> bool {
    !text.chars().any(misleads)
}

/// The text with everything that misleads in it as an escape, such as `\u{1b}`.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if misleads(character) {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// A text, quoted as one argument of a shell command.
pub fn argument(text: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/');
    if !text.is_empty() && text.bytes().all(fits) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn misleads(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{AD}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{FFA0}'
            | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misleads_is_shown_as_an_escape() {
        assert_eq!(shown("a\u{1b}[2J\nb\u{202e}"), r"a\u{1b}[2J\u{a}b\u{202e}");
        assert_eq!(shown("Zażółć, 承認"), "Zażółć, 承認");
        for hidden in
            "\u{115F}\u{2800}\u{3164}\u{AD}\u{200B}\u{200D}\u{2060}\u{FEFF}\u{E0041}".chars()
        {
            assert!(!is_plain(&format!("a{hidden}b")), "{hidden:?}");
        }
    }

    #[test]
    fn an_argument_is_one_word_of_a_shell() {
        assert_eq!(argument("VPAY_1.2-3/4"), "VPAY_1.2-3/4");
        assert_eq!(argument("a;b"), "'a;b'");
        assert_eq!(argument("it's"), r"'it'\''s'");
        assert_eq!(argument(""), "''");
    }
}
