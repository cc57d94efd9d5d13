//! Globs of file names: `*`, `?` and `[a-z]`, in any part of a path.

use std::path::{Path, PathBuf};

/// The files that match, sorted by name.
pub fn expand(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern.components() {
        let text = part.as_os_str().to_string_lossy();
        if !text.contains(['*', '?', '[']) {
            found.iter_mut().for_each(|p| p.push(part));
            continue;
        }
        let pattern: Vec<char> = text.chars().collect();
        found = found.iter().flat_map(|dir| matching(dir, &pattern)).collect();
    }
    found.retain(|p| p.is_file());
    found.sort();
    found
}

fn matching(dir: &Path, pattern: &[char]) -> Vec<PathBuf> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|e| {
            let name: Vec<char> = e.file_name().to_string_lossy().chars().collect();
            // As shells do: hidden files only when asked for.
            (name.first() != Some(&'.') || pattern.first() == Some(&'.')) && matches(&name, pattern)
        })
        .map(|e| dir.join(e.file_name()))
        .collect()
}

fn matches(name: &[char], pattern: &[char]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some(('*', rest)) => (0..=name.len()).any(|n| matches(&name[n..], rest)),
        Some(('[', rest)) => {
            let (Some((c, tail)), Some(end)) = (name.split_first(), rest.iter().skip(1).position(|c| *c == ']')) else {
                return false;
            };
            let (set, after) = (&rest[..end + 1], &rest[end + 2..]);
            let (negated, set) = match set.split_first() {
                Some(('!', s)) => (true, s),
                _ => (false, set),
            };
            in_set(*c, set) != negated && matches(tail, after)
        }
        Some((p, rest)) => name.split_first().is_some_and(|(c, tail)| (*p == '?' || p == c) && matches(tail, rest)),
    }
}

fn in_set(c: char, set: &[char]) -> bool {
    match set {
        [a, '-', b, rest @ ..] => (*a..=*b).contains(&c) || in_set(c, rest),
        [a, rest @ ..] => *a == c || in_set(c, rest),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        let m = |n: &str, p: &str| matches(&n.chars().collect::<Vec<_>>(), &p.chars().collect::<Vec<_>>());
        assert!(m("a12.jpg", "a*.jpg") && m("a12.jpg", "a??.jp[a-g]") && m("x", "[!a-c]"));
        assert!(!m("a12.jpg", "a?.jpg") && !m("b", "[!a-c]") && !m("", "?") && !m("a", "[a"));
    }
}
