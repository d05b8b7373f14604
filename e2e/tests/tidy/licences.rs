//! Does a list of licences satisfy an SPDX expression? `AND`, `OR`, `WITH`, brackets, and the older `/` for `OR`.

use anyhow::{Result, bail};

/// True when the expression can be satisfied with listed licences alone. An exception (`WITH`) must be listed together with its licence.
pub fn allowed(expression: &str, list: &[String]) -> Result<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut reader = Reader { words: spaced.split_whitespace().collect(), at: 0, list };
    let answer = reader.either()?;
    match reader.peek() {
        None => Ok(answer),
        Some(word) => bail!("`{word}` is out of place"),
    }
}

struct Reader<'a> {
    words: Vec<&'a str>,
    at: usize,
    list: &'a [String],
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.words.get(self.at).copied()
    }

    fn next_is(&mut self, word: &str) -> bool {
        let is = self.peek().is_some_and(|next| next.eq_ignore_ascii_case(word));
        self.at += usize::from(is);
        is
    }

    fn either(&mut self) -> Result<bool> {
        let mut answer = self.both()?;
        while self.next_is("OR") {
            answer |= self.both()?;
        }
        Ok(answer)
    }

    fn both(&mut self) -> Result<bool> {
        let mut answer = self.one()?;
        while self.next_is("AND") {
            answer &= self.one()?;
        }
        Ok(answer)
    }

    fn one(&mut self) -> Result<bool> {
        if self.next_is("(") {
            let answer = self.either()?;
            if !self.next_is(")") {
                bail!("a bracket stays open, or the expression ends too early");
            }
            return Ok(answer);
        }
        let mut licence = self.name()?.to_owned();
        if self.next_is("WITH") {
            licence = format!("{licence} WITH {}", self.name()?);
        }
        Ok(self.list.contains(&licence))
    }

    fn name(&mut self) -> Result<&'a str> {
        match self.peek() {
            None => bail!("the expression ends too early"),
            Some(word) if ["AND", "OR", "WITH", "(", ")"].contains(&word) => {
                bail!("`{word}` is out of place")
            }
            Some(word) => {
                self.at += 1;
                Ok(word)
            }
        }
    }
}

#[cfg(test)]
fn check(expression: &str, expected: Option<bool>) {
    let list = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    assert_eq!(allowed(expression, &list).ok(), expected, "{expression}");
}

#[test]
fn expressions_are_evaluated() {
    check("MIT", Some(true));
    check("GPL-3.0-only", Some(false));
    check("MIT OR GPL-3.0-only", Some(true));
    check("GPL-2.0/MIT", Some(true));
    check("Apache-2.0 / GPL-2.0", Some(true));
    check("MIT AND GPL-3.0-only", Some(false));
    check("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true));
    check("GPL-3.0-only OR MIT AND ISC", Some(false));
    check("(GPL-3.0-only OR MIT) AND Unicode-3.0", Some(true));
    check("Apache-2.0 WITH LLVM-exception", Some(true));
    check("MIT WITH LLVM-exception", Some(false));
    check("Apache-2.0 WITH LLVM-exception AND ISC OR MIT", Some(true));
}

#[test]
fn broken_expressions_are_errors() {
    for broken in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "AND MIT", "MIT WITH", "()"] {
        check(broken, None);
    }
}
