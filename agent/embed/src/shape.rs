//! What `config.json` says about the model: sizes, and whether it is one this crate can run.

use serde::Deserialize;

use crate::TOKENS_MAX;

/// The sizes of a BERT encoder.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Shape {
    model_type: String,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
    /// Floats per token, and per vector.
    pub hidden_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    pub intermediate_size: usize,
    pub vocab_size: usize,
    pub type_vocab_size: usize,
    pub max_position_embeddings: usize,
    pub layer_norm_eps: f32,
}

fn absolute() -> String {
    "absolute".into()
}

impl Shape {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// One sentence that says which field is not supported.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let shape: Self = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        for (field, found, expected) in [
            ("model_type", &shape.model_type, "bert"),
            // The exact form with erf; the tanh approximation gives other vectors.
            ("hidden_act", &shape.hidden_act, "gelu"),
            ("position_embedding_type", &shape.position_embedding_type, "absolute"),
        ] {
            if found != expected {
                return Err(format!("{field} is {found:?}, only {expected:?} can be run"));
            }
        }
        // The upper limits only keep later arithmetic far from overflow.
        for (field, value, most) in [
            ("hidden_size", shape.hidden_size, 1 << 14),
            ("num_attention_heads", shape.num_attention_heads, 1 << 8),
            ("num_hidden_layers", shape.num_hidden_layers, 1 << 8),
            ("intermediate_size", shape.intermediate_size, 1 << 16),
            ("vocab_size", shape.vocab_size, 1 << 24),
            ("type_vocab_size", shape.type_vocab_size, 1 << 8),
            ("max_position_embeddings", shape.max_position_embeddings, 1 << 16),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{field} is {value}, expected 1 to {most}"));
            }
        }
        if !shape.hidden_size.is_multiple_of(shape.num_attention_heads) {
            return Err("hidden_size is no multiple of num_attention_heads".into());
        }
        if shape.max_position_embeddings < TOKENS_MAX {
            return Err(format!("max_position_embeddings is {}, below {TOKENS_MAX}", shape.max_position_embeddings));
        }
        if !(shape.layer_norm_eps > 0.0 && shape.layer_norm_eps < 1.0) {
            return Err(format!("layer_norm_eps is {}, expected a small positive number", shape.layer_norm_eps));
        }
        Ok(shape)
    }

    /// Floats per attention head.
    pub fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// A model of two layers that fits in a test.
    #[cfg(test)]
    pub fn tiny() -> Self {
        Self {
            model_type: "bert".into(),
            hidden_act: "gelu".into(),
            position_embedding_type: absolute(),
            hidden_size: 4,
            num_attention_heads: 2,
            num_hidden_layers: 2,
            intermediate_size: 8,
            vocab_size: 10,
            type_vocab_size: 2,
            max_position_embeddings: TOKENS_MAX,
            layer_norm_eps: 1e-12,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Shape;

    const MINILM: &str = r#"{"model_type": "bert", "hidden_act": "gelu", "hidden_size": 384, "num_attention_heads": 12,
        "num_hidden_layers": 6, "intermediate_size": 1536, "vocab_size": 30522, "type_vocab_size": 2,
        "max_position_embeddings": 512, "layer_norm_eps": 1e-12, "use_cache": true}"#;

    #[track_caller]
    fn check(from: &str, to: &str, expected: &str) {
        let json = MINILM.replace(from, to);
        let said = Shape::parse(json.as_bytes()).map(|shape| shape.head_size()).expect_err("should be refused");
        assert!(said.contains(expected), "{said}");
    }

    #[test]
    fn the_model_itself_is_accepted() {
        let shape = Shape::parse(MINILM.as_bytes()).expect("should be accepted");
        assert_eq!((shape.hidden_size, shape.head_size()), (384, 32));
    }

    #[test]
    fn others_are_refused_with_the_field() {
        check(r#""bert""#, r#""mpnet""#, r#"model_type is "mpnet""#);
        check(r#""gelu""#, r#""gelu_new""#, r#"hidden_act is "gelu_new""#);
        check("{", r#"{"position_embedding_type": "relative_key", "#, "position_embedding_type");
        check("384", "0", "hidden_size is 0");
        check("384", "-1", "invalid value");
        check("384", "385", "no multiple");
        check("384", "99999999999", "hidden_size is 99999999999");
        check(": 6,", ": 100000,", "num_hidden_layers");
        check("512", "128", "max_position_embeddings is 128");
        check("1e-12", "0", "layer_norm_eps");
        check("1e-12", "1e-12 ]", "expected");
        check(r#""vocab_size": 30522,"#, "", "vocab_size");
    }
}
