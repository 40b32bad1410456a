//! Reading source text: comments, tests, words, modules named.

/// One finding for each line that has one of `words`, as whole words where they begin or end in a letter.
pub(super) fn never(code: &str, words: &[&str], why: &str) -> Vec<String> {
    let letter = |c: char| c.is_alphanumeric() || c == '_';
    let whole = |line: &str, at: usize, word: &str| {
        let before = line[..at].chars().next_back().is_some_and(letter) && word.starts_with(letter);
        let after = line[at + word.len()..].chars().next().is_some_and(letter) && word.ends_with(letter);
        !before && !after
    };
    let mut found = Vec::new();
    for (n, line) in (1..).zip(code.lines()) {
        for word in words {
            if line.match_indices(word).any(|(at, _)| whole(line, at, word)) {
                found.push(format!(":{n}: `{word}`: {why}"));
            }
        }
    }
    found
}

/// The modules named as `crate::x` or in `crate::{x, y::z}`, each with its line.
pub(super) fn crate_modules(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        let name = |text: &str| {
            text.trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect()
        };
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, name(rest)));
            continue;
        };
        let mut depth = 0;
        let mut start = 0;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.push((line, name(&group[start..i])));
                    start = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found
}

/// The text with its comments blanked, line by line in place. A `//` inside a string is no comment.
pub(super) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let mut escaped = false;
        let mut end = line.len();
        for (i, c) in line.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' if !line[..i].ends_with('\'') => quoted = !quoted,
                '/' if !quoted && line[i..].starts_with("//") => {
                    end = i;
                    break;
                }
                _ => {}
            }
        }
        code.push_str(&line[..end]);
        code.push('\n');
    }
    code
}

/// The code before `mod tests`: tests come last.
pub(super) fn without_tests<'a>(path: &str, code: &'a str) -> &'a str {
    if path.ends_with("/tests.rs") || path.contains("/tests/") || path.ends_with("/testing.rs") {
        return "";
    }
    code.find("#[cfg(test)]\nmod tests").map_or(code, |at| &code[..at])
}
