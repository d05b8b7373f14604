//! The network: BERT, then the mean over a text's tokens, then unit length.

use crate::{
    graph::{Attribute, Dim, Graph, Value},
    safetensors::Weights,
    shape::Shape,
};

/// The graph's result: float32 `[batch, hidden_size]`, each row of length 1.
pub const OUTPUT: &str = "sentence_embedding";

/// The graph's inputs: int64 `[batch, seq]` each, in this order.
pub const INPUTS: [&str; 3] = ["input_ids", "attention_mask", "token_type_ids"];

/// Writes the model as an ONNX file that points into the weights file named `location`, in the same folder.
///
/// # Errors
/// Where the weights lack a tensor or have it in another shape.
pub fn onnx(shape: &Shape, weights: &Weights, location: &str) -> Result<Vec<u8>, String> {
    let mut graph = Graph::new(weights, location);
    constants(&mut graph, shape);
    let mut tokens = embeddings(&mut graph, shape)?;
    let bias = mask_bias(&mut graph);
    for layer in 0..shape.num_hidden_layers {
        let name = format!("encoder.layer.{layer}");
        tokens = attention(&mut graph, shape, &tokens, &bias, &name)?;
        tokens = feed_forward(&mut graph, shape, &tokens, &name)?;
    }
    let pooled = pooled(&mut graph, &tokens);
    let ids = [Dim::Named("batch"), Dim::Named("seq")];
    let inputs = INPUTS.map(|name| (name, &ids[..]));
    Ok(graph.into_model(&inputs, &pooled, (OUTPUT, &[Dim::Named("batch"), Dim::Fixed(shape.hidden_size)])))
}

fn constants(graph: &mut Graph<'_>, shape: &Shape) {
    for (name, value) in [
        ("one", 1.0),
        ("half", 0.5),
        ("masked", -10000.0),
        ("sqrt_2", std::f32::consts::SQRT_2),
        ("sqrt_head", (shape.head_size() as f32).sqrt()),
        ("tiny_count", 1e-9),
        ("tiny_norm", 1e-12),
    ] {
        graph.float(name, value);
    }
    let (heads, head, hidden) = (shape.num_attention_heads as i64, shape.head_size() as i64, shape.hidden_size as i64);
    // In a Reshape, 0 keeps a dimension.
    for (name, values) in [
        ("i0", &[0][..]),
        ("i1", &[1]),
        ("i2", &[2]),
        ("i12", &[1, 2]),
        ("last", &[-1]),
        ("split", &[0, 0, heads, head]),
        ("merge", &[0, 0, hidden]),
    ] {
        graph.ints(name, values);
    }
}

/// Word + type + position, normalised. Positions are 0 to seq - 1.
fn embeddings(graph: &mut Graph<'_>, shape: &Shape) -> Result<Value, String> {
    let hidden = shape.hidden_size;
    let words = graph.weight("embeddings.word_embeddings.weight", &[shape.vocab_size, hidden])?;
    let types = graph.weight("embeddings.token_type_embeddings.weight", &[shape.type_vocab_size, hidden])?;
    let places = graph.weight("embeddings.position_embeddings.weight", &[shape.max_position_embeddings, hidden])?;
    let word = graph.op("Gather", &[&words, "input_ids"], &[Attribute::Int("axis", 0)]);
    let kind = graph.op("Gather", &[&types, "token_type_ids"], &[Attribute::Int("axis", 0)]);
    let size = graph.op("Shape", &["input_ids"], &[]);
    let seq = graph.op("Slice", &[&size, "i1", "i2"], &[]);
    let place = graph.op("Slice", &[&places, "i0", &seq, "i0"], &[]);
    let sum = graph.op("Add", &[&word, &kind], &[]);
    let sum = graph.op("Add", &[&sum, &place], &[]);
    graph.norm(&sum, "embeddings.LayerNorm", hidden, shape.layer_norm_eps)
}

/// 0 for a token, -10000 for padding, whose weight is then exp(-10000) = 0 exactly.
fn mask_bias(graph: &mut Graph<'_>) -> Value {
    let mask = graph.op("Unsqueeze", &["attention_mask", "i12"], &[]);
    let mask = graph.op("Cast", &[&mask], &[Attribute::Int("to", 1)]);
    let padding = graph.op("Sub", &["one", &mask], &[]);
    graph.op("Mul", &[&padding, "masked"], &[])
}

fn attention(graph: &mut Graph<'_>, shape: &Shape, x: &str, bias: &str, layer: &str) -> Result<Value, String> {
    let hidden = shape.hidden_size;
    let mut heads = |which: &str, order: &'static [i64]| {
        let projected = graph.linear(x, &format!("{layer}.attention.self.{which}"), hidden, hidden)?;
        let split = graph.op("Reshape", &[&projected, "split"], &[]);
        Ok::<_, String>(graph.op("Transpose", &[&split], &[Attribute::Ints("perm", order)]))
    };
    let query = heads("query", &[0, 2, 1, 3])?;
    let key = heads("key", &[0, 2, 3, 1])?;
    let value = heads("value", &[0, 2, 1, 3])?;
    let scores = graph.op("MatMul", &[&query, &key], &[]);
    let scores = graph.op("Div", &[&scores, "sqrt_head"], &[]);
    let scores = graph.op("Add", &[&scores, bias], &[]);
    let shares = graph.op("Softmax", &[&scores], &[Attribute::Int("axis", -1)]);
    let mixed = graph.op("MatMul", &[&shares, &value], &[]);
    let mixed = graph.op("Transpose", &[&mixed], &[Attribute::Ints("perm", &[0, 2, 1, 3])]);
    let mixed = graph.op("Reshape", &[&mixed, "merge"], &[]);
    let dense = graph.linear(&mixed, &format!("{layer}.attention.output.dense"), hidden, hidden)?;
    let sum = graph.op("Add", &[&dense, x], &[]);
    graph.norm(&sum, &format!("{layer}.attention.output.LayerNorm"), hidden, shape.layer_norm_eps)
}

fn feed_forward(graph: &mut Graph<'_>, shape: &Shape, x: &str, layer: &str) -> Result<Value, String> {
    let (hidden, wide) = (shape.hidden_size, shape.intermediate_size);
    let y = graph.linear(x, &format!("{layer}.intermediate.dense"), hidden, wide)?;
    // GELU in its exact form: y/2 · (1 + erf(y / √2)).
    let erf = graph.op("Div", &[&y, "sqrt_2"], &[]);
    let erf = graph.op("Erf", &[&erf], &[]);
    let erf = graph.op("Add", &[&erf, "one"], &[]);
    let y = graph.op("Mul", &[&y, &erf], &[]);
    let y = graph.op("Mul", &[&y, "half"], &[]);
    let dense = graph.linear(&y, &format!("{layer}.output.dense"), wide, hidden)?;
    let sum = graph.op("Add", &[&dense, x], &[]);
    graph.norm(&sum, &format!("{layer}.output.LayerNorm"), hidden, shape.layer_norm_eps)
}

/// The mean over the tokens that the mask keeps, then unit length. `[CLS]` and `[SEP]` count, as in the reference.
fn pooled(graph: &mut Graph<'_>, tokens: &str) -> Value {
    let mask = graph.op("Cast", &["attention_mask"], &[Attribute::Int("to", 1)]);
    let mask = graph.op("Unsqueeze", &[&mask, "last"], &[]);
    let kept = graph.op("Mul", &[tokens, &mask], &[]);
    let total = graph.op("ReduceSum", &[&kept, "i1"], &[Attribute::Int("keepdims", 0)]);
    let count = graph.op("ReduceSum", &[&mask, "i1"], &[Attribute::Int("keepdims", 0)]);
    let count = graph.op("Max", &[&count, "tiny_count"], &[]);
    let mean = graph.op("Div", &[&total, &count], &[]);
    let norm = graph.op("ReduceL2", &[&mean], &[Attribute::Ints("axes", &[-1]), Attribute::Int("keepdims", 1)]);
    let norm = graph.op("Max", &[&norm, "tiny_norm"], &[]);
    graph.op("Div", &[&mean, &norm], &[])
}

#[cfg(test)]
mod tests {
    use super::onnx;
    use crate::{safetensors::Weights, shape::Shape};

    /// Every tensor of a model of this shape.
    fn tensors(shape: &Shape) -> Vec<(String, Vec<usize>)> {
        let (hidden, wide) = (shape.hidden_size, shape.intermediate_size);
        let mut all = vec![
            ("embeddings.word_embeddings.weight".into(), vec![shape.vocab_size, hidden]),
            ("embeddings.token_type_embeddings.weight".into(), vec![shape.type_vocab_size, hidden]),
            ("embeddings.position_embeddings.weight".into(), vec![shape.max_position_embeddings, hidden]),
        ];
        let mut add = |name: String, dims: &[usize]| {
            all.push((format!("{name}.weight"), dims.to_vec()));
            all.push((format!("{name}.bias"), dims[..1].to_vec()));
        };
        add("embeddings.LayerNorm".into(), &[hidden]);
        for layer in (0..shape.num_hidden_layers).map(|layer| format!("encoder.layer.{layer}")) {
            for which in ["self.query", "self.key", "self.value", "output.dense"] {
                add(format!("{layer}.attention.{which}"), &[hidden, hidden]);
            }
            add(format!("{layer}.attention.output.LayerNorm"), &[hidden]);
            add(format!("{layer}.intermediate.dense"), &[wide, hidden]);
            add(format!("{layer}.output.dense"), &[hidden, wide]);
            add(format!("{layer}.output.LayerNorm"), &[hidden]);
        }
        all
    }

    #[test]
    fn the_same_model_gives_the_same_bytes() {
        let shape = Shape::tiny();
        let weights = Weights::laid_out(&tensors(&shape));
        let built = onnx(&shape, &weights, "model.safetensors").expect("should build");
        assert_eq!(built, onnx(&shape, &weights, "model.safetensors").expect("should build"));
        assert!(built.len() < 20_000, "{} bytes: the weights belong into their own file", built.len());
    }

    #[test]
    fn any_missing_tensor_is_named() {
        let shape = Shape::tiny();
        let all = tensors(&shape);
        for gone in 0..all.len() {
            let mut some = all.clone();
            let (name, _) = some.remove(gone);
            let said = onnx(&shape, &Weights::laid_out(&some), "w").expect_err("should be refused");
            assert!(said.contains(&name), "{said}");
        }
    }
}
