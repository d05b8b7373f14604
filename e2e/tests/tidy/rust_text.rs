//! Rust source as words: without comments, texts and test code, and with every path written out as `use` brings it in.
//!
//! Enough of the language for the rules here, and no more: macros are read as if they were plain code.

use std::collections::BTreeMap;

/// A word of the source and its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    pub text: String,
    pub line: usize,
}

/// A path such as `std::time::Instant`, and the line where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct PathUse {
    pub segments: Vec<String>,
    pub line: usize,
}

/// The words of a source file: names, numbers, `::` and single signs.
pub fn words(source: &str) -> Vec<Word> {
    let signs: Vec<char> = source.chars().collect();
    let (mut words, mut line, mut at) = (Vec::new(), 1, 0);
    let is_name = |sign: char| sign.is_alphanumeric() || sign == '_';
    while at < signs.len() {
        let rest = &signs[at..];
        let length = skipped(rest);
        if length > 0 {
            line += rest[..length].iter().filter(|sign| **sign == '\n').count();
            at += length;
            continue;
        }
        let length = match rest {
            [':', ':', ..] => 2,
            [first, ..] if is_name(*first) => rest.iter().take_while(|sign| is_name(**sign)).count(),
            _ => 1,
        };
        words.push(Word { text: rest[..length].iter().collect(), line });
        at += length;
    }
    words
}

/// How many signs of white space, comment, text, character or lifetime stand at the start.
fn skipped(rest: &[char]) -> usize {
    let find = |from: usize, end: &str| {
        let end: Vec<char> = end.chars().collect();
        (from..rest.len()).find(|at| rest[*at..].starts_with(&end)).map_or(rest.len(), |at| at + end.len())
    };
    match rest {
        [first, ..] if first.is_whitespace() => 1,
        ['/', '/', ..] => rest.iter().take_while(|sign| **sign != '\n').count(),
        ['/', '*', ..] => {
            let (mut depth, mut at) = (1, 2);
            while depth > 0 && at < rest.len() {
                match rest[at..] {
                    ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
                    ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
            }
            at
        }
        ['b' | 'c' | 'r', ..] if raw_text_hashes(rest).is_some() => {
            let (start, hashes) = raw_text_hashes(rest).unwrap_or_default();
            find(start, &format!("\"{}", "#".repeat(hashes)))
        }
        ['b' | 'c', '"', ..] => 1 + quoted(&rest[1..]),
        ['"', ..] => quoted(rest),
        ['b', '\'', ..] => 1 + quoted(&rest[1..]),
        ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted(rest),
        ['\'', ..] => 1 + rest[1..].iter().take_while(|sign| sign.is_alphanumeric() || **sign == '_').count(),
        _ => 0,
    }
}

/// For `r"`, `br##"` and the like: where the text begins, and its number of hashes.
fn raw_text_hashes(rest: &[char]) -> Option<(usize, usize)> {
    let prefix = match rest {
        ['b' | 'c', 'r', ..] => 2,
        ['r', ..] => 1,
        _ => return None,
    };
    let hashes = rest[prefix..].iter().take_while(|sign| **sign == '#').count();
    (rest.get(prefix + hashes) == Some(&'"')).then_some((prefix + hashes + 1, hashes))
}

/// The length of a text or character from its first quote to its last.
fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != rest[0] {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Leaves out every item that stands under `#[cfg(test)]`.
pub fn without_tests(words: &[Word]) -> Vec<Word> {
    let mark = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < words.len() {
        if words[at..].iter().map(|word| word.text.as_str()).take(mark.len()).eq(mark) {
            at += mark.len();
            while text(words, at) == "#" {
                at = after_brackets(words, at + 1);
            }
            at = after_item(words, at);
        } else {
            kept.push(words[at].clone());
            at += 1;
        }
    }
    kept
}

fn text(words: &[Word], at: usize) -> &str {
    words.get(at).map_or("", |word| word.text.as_str())
}

/// The place behind the bracket that closes the one at `at`.
fn after_brackets(words: &[Word], mut at: usize) -> usize {
    let mut depth = 0_usize;
    while at < words.len() {
        match text(words, at) {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The place behind an item, which ends with `;` or with its body.
fn after_item(words: &[Word], mut at: usize) -> usize {
    while at < words.len() {
        match text(words, at) {
            ";" => return at + 1,
            "{" => return after_brackets(words, at),
            "(" | "[" => at = after_brackets(words, at),
            _ => at += 1,
        }
    }
    at
}

/// Every path of the source: those of `use`, and those in the code with their first segment replaced by what `use` made of it.
pub fn paths(words: &[Word]) -> Vec<PathUse> {
    let (mut found, mut names) = (Vec::new(), BTreeMap::new());
    for (at, word) in words.iter().enumerate() {
        if word.text == "use" && text(words, at + 1) != "<" {
            use_tree(words, at + 1, &[], &mut found, &mut names);
        }
    }
    let mut at = 0;
    while at < words.len() {
        let before = if at == 0 { "" } else { text(words, at - 1) };
        if words[at].text == "use" && text(words, at + 1) != "<" {
            at = after_item_of_use(words, at);
            continue;
        }
        let from_root = words[at].text == "::" && !ends_a_path(before);
        let start = at + usize::from(from_root);
        let head = text(words, start);
        if !is_name(head) || KEYWORDS.contains(&head) || (!from_root && (before == "::" || before == "." || text(words, start + 1) != "::"))
        {
            at += 1;
            continue;
        }
        let mut segments = vec![words[start].text.clone()];
        let mut end = start + 1;
        while text(words, end) == "::" && is_name(text(words, end + 1)) {
            segments.push(words[end + 1].text.clone());
            end += 2;
        }
        // `name::<T>()` calls a function of this file or one that `use` names.
        if segments.len() > 1 || text(words, end) != "::" {
            if let (false, Some(whole)) = (from_root, names.get(&segments[0])) {
                segments.splice(0..1, whole.iter().cloned());
            }
            found.push(PathUse { segments, line: words[start].line });
        }
        at = end;
    }
    found
}

/// The modules that the source declares or holds.
pub fn modules(words: &[Word]) -> Vec<String> {
    words.windows(2).filter(|pair| pair[0].text == "mod" && is_name(&pair[1].text)).map(|pair| pair[1].text.clone()).collect()
}

fn is_name(word: &str) -> bool {
    word.starts_with(|sign: char| sign.is_alphabetic() || sign == '_')
}

/// Words after which a path can only begin.
const KEYWORDS: [&str; 19] = [
    "as", "const", "dyn", "else", "for", "if", "impl", "in", "let", "match", "move", "mut", "pub", "ref", "return", "static", "use",
    "where", "while",
];

/// Can a path go on behind this word?
fn ends_a_path(word: &str) -> bool {
    word == ">" || (is_name(word) && !KEYWORDS.contains(&word))
}

fn after_item_of_use(words: &[Word], mut at: usize) -> usize {
    while at < words.len() && text(words, at) != ";" {
        at += 1;
    }
    at
}

/// Reads one `use` tree and returns the place behind it.
fn use_tree(
    words: &[Word],
    mut at: usize,
    before: &[String],
    found: &mut Vec<PathUse>,
    names: &mut BTreeMap<String, Vec<String>>,
) -> usize {
    let mut segments = before.to_vec();
    loop {
        let line = words.get(at).map_or(0, |word| word.line);
        match text(words, at) {
            "::" => at += 1,
            "{" => {
                at += 1;
                while !["}", ""].contains(&text(words, at)) {
                    at = use_tree(words, at, &segments, found, names);
                    at += usize::from(text(words, at) == ",");
                }
                return at + 1;
            }
            "*" => {
                segments.push("*".into());
                found.push(PathUse { segments, line });
                return at + 1;
            }
            name if is_name(name) => {
                if name != "self" || segments.is_empty() {
                    segments.push(name.to_owned());
                }
                at += 1;
                if text(words, at) == "::" {
                    continue;
                }
                let mut local = segments.last().cloned().unwrap_or_default();
                if text(words, at) == "as" {
                    local = text(words, at + 1).to_owned();
                    at += 2;
                }
                names.insert(local, segments.clone());
                found.push(PathUse { segments, line });
                return at;
            }
            _ => return at + 1,
        }
    }
}

#[cfg(test)]
fn found(source: &str) -> Vec<String> {
    paths(&without_tests(&words(source))).iter().map(|path| path.segments.join("::")).collect()
}

#[test]
fn comments_texts_and_lifetimes_are_no_words() {
    let source = r###"a /* x /* y */ z */ b // c
        "d \" e" 'f' '\'' 'g: r#"h " i"# b"j" br"k" b'l' m"###;
    let read: Vec<_> = words(source).into_iter().map(|word| (word.text, word.line)).collect();
    assert_eq!(read, [("a".to_owned(), 1), ("b".to_owned(), 1), (":".to_owned(), 2), ("m".to_owned(), 2)]);
}

#[test]
fn test_code_is_left_out() {
    let source = "fn a() {} #[cfg(test)] #[allow(x)] mod tests { fn b() { { } } } fn c() {} #[cfg(test)] mod d; #[cfg(test)] const E: [u8; 2] = [1; 2]; f";
    let left: String = without_tests(&words(source)).iter().map(|word| word.text.as_str()).collect();
    assert_eq!(left, "fna(){}fnc(){}f");
}

#[test]
fn paths_are_written_out() {
    assert_eq!(
        found("use std::{fmt, time::{self as t, Duration}, net::*};"),
        ["std::fmt", "std::time", "std::time::Duration", "std::net::*"]
    );
    assert_eq!(found("use std::time; fn a() { time::Instant::now(); }")[1], "std::time::Instant::now");
    assert_eq!(found("use tokio as t; fn a() { t::spawn(b) }")[1], "tokio::spawn");
    assert_eq!(found("fn a() -> std::io::Result<()> { x.into::<u8>(); y::<u8>() }"), ["std::io::Result"]);
    assert_eq!(found("fn a(b: ::rand::Rng) { return ::std::fs::read(c); }"), ["rand::Rng", "std::fs::read"]);
    assert_eq!(found("use std::fmt::{self}; impl fmt::Display for A {}"), ["std::fmt", "std::fmt::Display"]);
    assert_eq!(found("fn a() -> impl Fn() + use<'b> { Vec::<u8>::new }"), Vec::<String>::new());
}
