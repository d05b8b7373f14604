//! Writes an ONNX graph node by node. The numbers are the field numbers of ONNX's own protobuf schema.

use std::collections::BTreeSet;

use crate::{protobuf::Message, safetensors::Weights};

const FLOAT: i64 = 1;
const INT64: i64 = 7;

/// The operator set; 17 is the first with LayerNormalization. IR version 8 came with it.
const OPSET: i64 = 17;
const IR_VERSION: i64 = 8;

/// The name of a value in the graph: an input, a constant, a weight or a node's result.
pub type Value = String;

/// A node's settings, beside its inputs.
pub enum Attribute {
    Int(&'static str, i64),
    Ints(&'static str, &'static [i64]),
    Float(&'static str, f32),
}

/// A size of an input or output: fixed, or known by name only.
pub enum Dim {
    Fixed(usize),
    Named(&'static str),
}

/// A graph under construction. Weights stay where they are: the graph says only where that is.
pub struct Graph<'w> {
    weights: &'w Weights,
    location: &'w str,
    nodes: Vec<Message>,
    constants: Vec<Message>,
    used: BTreeSet<String>,
}

impl<'w> Graph<'w> {
    /// `location` is the weights file's name, in the graph's own folder.
    pub fn new(weights: &'w Weights, location: &'w str) -> Self {
        Self { weights, location, nodes: Vec::new(), constants: Vec::new(), used: BTreeSet::new() }
    }

    /// A float of no dimension.
    pub fn float(&mut self, name: &str, value: f32) {
        self.constants.push(Message::new().int(2, FLOAT).text(8, name).bytes(9, &value.to_le_bytes()));
    }

    /// A list of integers.
    pub fn ints(&mut self, name: &str, values: &[i64]) {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.constants.push(Message::new().int(1, values.len() as i64).int(2, INT64).text(8, name).bytes(9, &raw));
    }

    /// A weight, under its own name in the weights file.
    ///
    /// # Errors
    /// Where the file has no such tensor of this shape.
    pub fn weight(&mut self, name: &str, dims: &[usize]) -> Result<Value, String> {
        let place = self.weights.place(name, dims)?;
        if self.used.insert(name.into()) {
            let entry = |key: &str, value: &str| Message::new().text(1, key).text(2, value);
            let tensor = dims.iter().fold(Message::new(), |tensor, &dim| tensor.int(1, dim as i64));
            let external =
                [entry("location", self.location), entry("offset", &place.offset.to_string()), entry("length", &place.length.to_string())];
            self.constants.push(tensor.int(2, FLOAT).text(8, name).messages(13, &external).int(14, 1));
        }
        Ok(name.into())
    }

    /// Adds a node with one result and returns the result's name.
    pub fn op(&mut self, kind: &str, inputs: &[&str], attributes: &[Attribute]) -> Value {
        let result = format!("{kind}_{}", self.nodes.len());
        self.named_op(kind, inputs, attributes, &result);
        result
    }

    /// `x × Wᵀ + b`. The file holds W as [out, in]; the transposing node hangs on a constant, so it runs once, at load.
    ///
    /// # Errors
    /// As [`Graph::weight`].
    pub fn linear(&mut self, x: &str, name: &str, inputs: usize, outputs: usize) -> Result<Value, String> {
        let weight = self.weight(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weight(&format!("{name}.bias"), &[outputs])?;
        let weight = self.op("Transpose", &[&weight], &[Attribute::Ints("perm", &[1, 0])]);
        let product = self.op("MatMul", &[x, &weight], &[]);
        Ok(self.op("Add", &[&product, &bias], &[]))
    }

    /// Layer normalisation over the last dimension.
    ///
    /// # Errors
    /// As [`Graph::weight`].
    pub fn norm(&mut self, x: &str, name: &str, size: usize, epsilon: f32) -> Result<Value, String> {
        let weight = self.weight(&format!("{name}.weight"), &[size])?;
        let bias = self.weight(&format!("{name}.bias"), &[size])?;
        let attributes = [Attribute::Int("axis", -1), Attribute::Float("epsilon", epsilon)];
        Ok(self.op("LayerNormalization", &[x, &weight, &bias], &attributes))
    }

    /// Closes the graph: `inputs` are int64, `output` is float32 and takes the value of `result`.
    pub fn into_model(mut self, inputs: &[(&str, &[Dim])], result: &str, output: (&str, &[Dim])) -> Vec<u8> {
        self.named_op("Identity", &[result], &[], output.0);
        let mut graph = Message::new().messages(1, &self.nodes).text(2, "encoder").messages(5, &self.constants);
        for (name, dims) in inputs {
            graph = graph.message(11, &value_info(name, INT64, dims));
        }
        graph = graph.message(12, &value_info(output.0, FLOAT, output.1));
        let opset = Message::new().text(1, "").int(2, OPSET);
        Message::new().int(1, IR_VERSION).text(2, "mesh").message(7, &graph).message(8, &opset).into_bytes()
    }

    fn named_op(&mut self, kind: &str, inputs: &[&str], attributes: &[Attribute], result: &str) {
        let node = inputs.iter().fold(Message::new(), |node, input| node.text(1, input));
        let node = node.text(2, result).text(3, &format!("node_{result}")).text(4, kind);
        self.nodes.push(attributes.iter().fold(node, |node, attribute| node.message(5, &attribute.message())));
    }
}

impl Attribute {
    fn message(&self) -> Message {
        match *self {
            Self::Float(name, value) => Message::new().text(1, name).float(2, value).int(20, 1),
            Self::Int(name, value) => Message::new().text(1, name).int(3, value).int(20, 2),
            Self::Ints(name, values) => {
                values.iter().fold(Message::new().text(1, name), |message, &value| message.int(8, value)).int(20, 7)
            }
        }
    }
}

fn value_info(name: &str, element: i64, dims: &[Dim]) -> Message {
    let shape = dims.iter().fold(Message::new(), |shape, dim| {
        shape.message(
            1,
            &match dim {
                Dim::Fixed(size) => Message::new().int(1, *size as i64),
                Dim::Named(name) => Message::new().text(2, name),
            },
        )
    });
    let tensor = Message::new().int(1, element).message(2, &shape);
    Message::new().text(1, name).message(2, &Message::new().message(1, &tensor))
}
