//! The vectors are the reference's: those of sentence-transformers for 40 hard texts (scripts/reference_vectors.py).
//!
//! Needs the model and ONNX Runtime (`make model onnxruntime`), and fails where they are missing: a test of the real
//! model that quietly skips itself would prove nothing.

use std::cell::RefCell;

use agent_embed::{Control, EmbedConfig, EmbedError, Embedder, Embeddings, MODEL, available};
use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};
use serde::Deserialize;

/// Float32 on another processor, in other batches, differs by about 4e-7.
const COSINE_MIN: f64 = 0.9999;

#[derive(Deserialize)]
struct Reference {
    note: String,
    text: String,
    vector: Vec<f32>,
}

fn references() -> Vec<Reference> {
    include_str!("fixtures/reference.jsonl")
        .lines()
        .skip(1)
        .map(|line| serde_json::from_str(line).expect("a line of the fixture"))
        .collect()
}

fn config(threads: usize) -> EmbedConfig {
    let config = EmbedConfig { threads, ..EmbedConfig::discover() };
    if let Err(error) = available(&config) {
        panic!("this test runs the real model: {error}");
    }
    config
}

fn embedder(threads: usize) -> Embedder {
    Embedder::load(&config(threads)).expect("the model loads")
}

fn embed(embedder: &mut Embedder, texts: &[&str]) -> Embeddings {
    embedder.embed(texts, &mut |_| Control::Continue).expect("the texts are embedded")
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[track_caller]
fn check(note: &str, vector: &[f32], reference: &[f32]) {
    assert_eq!(vector.len(), reference.len(), "{note}");
    let cosine = cosine(vector, reference);
    assert!(cosine >= COSINE_MIN, "{note}: cosine {cosine}");
    let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    assert!((norm - 1.0).abs() < 1e-5, "{note}: length {norm}");
}

#[test]
fn vectors_are_those_of_the_reference() {
    let references = references();
    assert!(references.len() >= 24);
    let texts: Vec<&str> = references.iter().map(|reference| &reference.text[..]).collect();
    // One core and two must agree with the reference, batched and alone.
    for threads in [1, 2] {
        let mut embedder = embedder(threads);
        let together = embed(&mut embedder, &texts);
        assert_eq!((&together.model[..], together.dims, together.vectors.len()), (MODEL, 384, texts.len()));
        for (reference, vector) in references.iter().zip(&together.vectors) {
            check(&reference.note, vector, &reference.vector);
        }
        for reference in &references {
            let alone = embed(&mut embedder, &[&reference.text]);
            check(&reference.note, &alone.vectors[0], &reference.vector);
        }
    }
}

#[test]
fn cut_texts_are_named() {
    let references = references();
    let texts: Vec<&str> = references.iter().map(|reference| &reference.text[..]).collect();
    let embeddings = embed(&mut embedder(1), &texts);
    let named: Vec<&str> = embeddings.truncated.iter().map(|&index| &references[index].note[..]).collect();
    assert_eq!(named, ["255 words of one token each: cut by one", "600 words", "400 marks without blanks"]);
    assert!(embeddings.tokens <= 256 * texts.len() as u64);
}

#[test]
fn order_and_progress_hold_for_many_texts_on_several_cores() {
    let texts: Vec<String> = (0..300).map(|i| format!("boat {i} {}", "waits ".repeat(i % 40))).collect();
    let texts: Vec<&str> = texts.iter().map(|text| &text[..]).collect();
    let mut seen = Vec::new();
    let many = embedder(3)
        .embed(&texts, &mut |done| {
            seen.push(done);
            Control::Continue
        })
        .expect("the texts are embedded");
    assert!(seen.is_sorted() && seen.last() == Some(&texts.len()), "{seen:?}");
    let mut single = embedder(1);
    for index in [0, 1, 39, 40, 177, 299] {
        check(texts[index], &many.vectors[index], &embed(&mut single, &[texts[index]]).vectors[0]);
    }
}

#[test]
fn stops_when_asked_and_works_again() {
    let texts = vec!["seven old boats waited quietly beside a wall of warm stone"; 600];
    for threads in [1, 2] {
        let mut embedder = embedder(threads);
        let mut calls = 0;
        let stopped = embedder.embed(&texts, &mut |done| {
            calls += 1;
            if done > 0 { Control::Stop } else { Control::Continue }
        });
        assert!(matches!(stopped, Err(EmbedError::Stopped)));
        assert!(calls <= 4, "{calls} calls");
        assert_eq!(embed(&mut embedder, &texts[..3]).vectors.len(), 3);
    }
}

#[test]
fn no_texts_give_no_vectors() {
    let none = embed(&mut embedder(2), &[]);
    assert_eq!((none.vectors.len(), none.tokens, none.truncated.len()), (0, 0, 0));
}

#[test]
fn any_text_has_a_unit_vector() {
    // One model for all cases, so the runner is driven by hand.
    let embedder = RefCell::new(embedder(1));
    let mut runner = TestRunner::new(Config::with_cases(48));
    let texts = vec(prop_oneof!["\\PC{0,40}", any::<String>(), "[ #\\[\\]CLSEP\u{301}\u{0}a]{0,30}"], 0..4);
    runner
        .run(&texts, |texts| {
            let texts: Vec<&str> = texts.iter().map(|text| &text[..]).collect();
            let embeddings = embed(&mut embedder.borrow_mut(), &texts);
            prop_assert_eq!(embeddings.vectors.len(), texts.len());
            for vector in &embeddings.vectors {
                check("any text", vector, vector);
            }
            Ok(())
        })
        .expect("every text is embedded");
}

/// The agent moves the model between threads.
#[test]
fn the_model_can_move_between_threads() {
    fn moves<T: Send + 'static>() {}
    moves::<Embedder>();
    moves::<EmbedError>();
}
