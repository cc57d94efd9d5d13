//! Keeps passwords and tokens out of everything that is shown.
//!
//! Three nets: values that came from an environment variable with a telling name, the user part of addresses, and
//! whatever is assigned to a key or parameter with a telling name.

use std::ops::Range;

/// What stands in place of a secret.
const REDACTED: &str = "***";

/// Keys and parameters whose value is a secret, lower case.
const SECRET_WORDS: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "user-pw",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "credentials",
    "credential",
];

/// Whether an environment variable's name says that its value is a secret.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["PASS", "PWD", "SECRET", "TOKEN", "KEY", "CRED", "AUTH"].iter().any(|w| name.contains(w))
        || name.split(['_', '-']).any(|part| part == "PW")
}

/// Secrets met while a file was read.
#[derive(Debug, Default, Clone)]
pub(super) struct Secrets {
    values: Vec<String>,
}

impl Secrets {
    /// Never show this value.
    pub(super) fn add(&mut self, value: &str) {
        if !value.is_empty() && !self.values.iter().any(|v| v == value) {
            self.values.push(value.to_owned());
            // The longest first, so that a secret inside another leaves nothing of the longer one.
            self.values.sort_by_key(|v| std::cmp::Reverse(v.len()));
        }
    }

    /// The text without any secret: those known, and those that [`redact`] finds.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut ranges = sensitive(text);
        for value in &self.values {
            for (start, found) in text.match_indices(value.as_str()) {
                let span = start..start + found.len();
                // A short value is only taken where it stands alone: a password `a` must not blot out every word.
                if value.chars().count() > 3 || stands_alone(text, &span) {
                    ranges.push(span);
                }
            }
        }
        replace(text, ranges)
    }
}

fn stands_alone(text: &str, span: &Range<usize>) -> bool {
    let before = text[..span.start].chars().next_back();
    let after = text[span.end..].chars().next();
    ![before, after].into_iter().flatten().any(char::is_alphanumeric)
}

fn replace(text: &str, mut ranges: Vec<Range<usize>>) -> String {
    ranges.sort_by_key(|r| (r.start, r.end));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for range in ranges {
        if range.start >= at {
            out.push_str(&text[at..range.start]);
            out.push_str(REDACTED);
        }
        at = at.max(range.end);
    }
    out.push_str(&text[at..]);
    out
}

/// The text without user parts of addresses and values of secret parameters: for anything that is shown or logged.
///
/// ```
/// assert_eq!(framegate::config::redact("rtsp://admin:pw@cam/1"), "rtsp://***@cam/1");
/// ```
pub fn redact(text: &str) -> String {
    replace(text, sensitive(text))
}

/// The same text with stars for every secret's bytes: lines and columns stay where they are.
pub(super) fn mask(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for range in sensitive(text) {
        bytes[range].fill(b'*');
    }
    // Whole characters were replaced, so this is UTF-8 and the fallback never shows a secret either.
    String::from_utf8(bytes).unwrap_or_default()
}

/// Where secrets are in a text, by their looks.
fn sensitive(text: &str) -> Vec<Range<usize>> {
    let mut out = user_parts(text);
    out.extend(assigned(text));
    out
}

/// `user:password` of every address.
fn user_parts(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    for (at, mark) in text.match_indices("://") {
        let start = at + mark.len();
        let end = text[start..]
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>'))
            .map_or(text.len(), |n| start + n);
        let address = &text[start..end];
        let authority = address.find(['/', '?', '#']).map_or(address, |n| &address[..n]);
        let user = authority.rfind('@').or_else(|| {
            // A password may hold an unescaped slash: then what looks like a port is no number.
            let port = authority.rsplit_once(':')?.1;
            if port.is_empty() || port.bytes().all(|b| b.is_ascii_digit()) { None } else { address.rfind('@') }
        });
        if let Some(length) = user.filter(|&n| n > 0) {
            let span = start..start + length;
            // A reference to an environment variable is no secret, and worth seeing.
            if !only_references(&text[span.clone()]) {
                out.push(span);
            }
        }
    }
    out
}

/// Values assigned to keys and parameters with telling names.
fn assigned(text: &str) -> Vec<Range<usize>> {
    // ASCII lower case keeps every byte's place.
    let lower = text.to_ascii_lowercase();
    let mut out = Vec::new();
    for word in SECRET_WORDS {
        for (at, _) in lower.match_indices(word) {
            let mut rest = at + word.len();
            // `password_file = …` names a file; `"password" = …` is the quoted key.
            rest += text[rest..].len() - text[rest..].trim_start_matches(['"', '\'']).len();
            let spaces = |from: usize| from + (text[from..].len() - text[from..].trim_start_matches([' ', '\t']).len());
            rest = spaces(rest);
            if !text[rest..].starts_with('=') {
                continue;
            }
            rest = spaces(rest + 1);
            let value = &text[rest..];
            let quote = ["\"\"\"", "'''", "\"", "'", "`"].into_iter().find(|q| value.starts_with(q));
            let span = match quote {
                Some(q) => {
                    let start = rest + q.len();
                    start..closing(&text[start..], q).map_or(text.len(), |n| start + n)
                }
                None => {
                    let length = value
                        .find(|c: char| c.is_whitespace() || matches!(c, '&' | '"' | '\'' | '`' | ',' | '}' | ']'))
                        .unwrap_or(value.len());
                    rest..rest + length
                }
            };
            if !only_references(&text[span.clone()]) {
                out.push(span);
            }
        }
    }
    out
}

/// Where the quote is closed, escapes minded.
fn closing(text: &str, quote: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find(quote)?;
        let slashes = text[..at].bytes().rev().take_while(|&b| b == b'\\').count();
        if !quote.starts_with('"') || slashes % 2 == 0 {
            return Some(at);
        }
        from = at + 1;
    }
}

/// Whether there is nothing but `${NAME}` references (without defaults) and punctuation between them.
fn only_references(text: &str) -> bool {
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].contains(|c: char| c != ':') {
            return false;
        }
        let Some(length) = rest[start..].find('}') else { return false };
        if rest[start..start + length].contains(":-") {
            return false;
        }
        rest = &rest[start + length + 1..];
    }
    rest.chars().all(|c| c == ':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_parts_and_telling_parameters_are_redacted() {
        for (text, expected) in [
            ("open rtsp://admin:hunter2@cam/1 failed", "open rtsp://***@cam/1 failed"),
            ("rtsp://u:p@ss@cam/1", "rtsp://***@cam/1"),
            ("rtsp://u:p/ss@cam/1", "rtsp://***@cam/1"),
            ("http://127.0.0.1:80/a@b", "http://127.0.0.1:80/a@b"),
            ("rtsp://${USER}:${PW}@cam", "rtsp://${USER}:${PW}@cam"),
            ("rtsp://${USER}:${PW:-hunter2}@cam", "rtsp://***@cam"),
            ("rtspsrc user-id=me user-pw=hunter2 ! x", "rtspsrc user-id=me user-pw=*** ! x"),
            ("http://h/?token=abc&x=1", "http://h/?token=***&x=1"),
            (r#"password = "a \" b" # c"#, r#"password = "***" # c"#),
            ("password = \"${MQTT_PASSWORD}\"", "password = \"${MQTT_PASSWORD}\""),
            ("password_file = \"x\"", "password_file = \"x\""),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    #[test]
    fn masking_keeps_every_byte_in_place() {
        let text = "uri = \"rtsp://é:ü@cam\"\npassword = '''ß'''\n";
        let masked = mask(text);
        assert_eq!(masked.len(), text.len());
        assert!(!masked.contains('ü') && !masked.contains('ß'), "{masked}");
    }

    #[test]
    fn known_values_are_redacted_wherever_they_stand() {
        let mut secrets = Secrets::default();
        secrets.add("hunter2");
        secrets.add("a");
        assert_eq!(secrets.redact("found \"hunter2x\", \"a\" at all"), "found \"***x\", \"***\" at all");
    }
}
