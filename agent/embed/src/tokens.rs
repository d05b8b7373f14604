//! Cuts texts into the model's tokens.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::{EmbedError, TOKENS_MAX};

/// The model's tokenizer. Lower-cases, strips accents, takes any text: an empty one becomes `[CLS][SEP]`.
pub struct Tokens(Tokenizer);

/// One text as the model sees it: at least 2 and at most [`TOKENS_MAX`] ids.
pub struct Ids {
    pub ids: Vec<u32>,
    /// The text was longer and has been cut from the right.
    pub truncated: bool,
}

impl Tokens {
    /// Loads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`EmbedError::Tokenizer`] where the file cannot be read or understood.
    pub fn load(path: &Path) -> Result<Self, EmbedError> {
        let mut tokenizer = Tokenizer::from_file(path).map_err(failed)?;
        // The file says: cut at 128, pad to 128. The model's own settings say 256, which `ids` sees to; rows are padded
        // per run.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(failed)?;
        Ok(Self(tokenizer))
    }

    /// # Errors
    /// [`EmbedError::Tokenizer`]; no text is known that the model's tokenizer refuses.
    pub fn ids(&self, text: &str) -> Result<Ids, EmbedError> {
        let encoding = self.0.encode_fast(text, true).map_err(failed)?;
        let all = encoding.get_ids();
        match all.last() {
            // Cut before the closing [SEP], which stays.
            Some(&last) if all.len() > TOKENS_MAX => {
                let ids = all[..TOKENS_MAX - 1].iter().copied().chain([last]).collect();
                Ok(Ids { ids, truncated: true })
            }
            Some(_) => Ok(Ids { ids: all.to_vec(), truncated: false }),
            None => Err(EmbedError::Tokenizer { why: "it gave a text no tokens at all".into() }),
        }
    }
}

fn failed(error: tokenizers::Error) -> EmbedError {
    EmbedError::Tokenizer { why: error.to_string() }
}
