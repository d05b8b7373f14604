//! Which texts run together.

/// Rows × longest row of one run. Measured on 1,000 mixed texts: larger runs pad more and leave the processor's caches,
/// smaller ones pay more per run; between 128 and 1,024 the difference is a tenth. One run of this size takes about
/// 0.08 s of one core, which is also how fast a job can be stopped.
pub const TOKENS_PER_RUN: usize = 256;

/// The most rows of one run.
pub const ROWS_PER_RUN: usize = 64;

/// Groups texts of like length, so that little is padded: indexes of `lengths`, each exactly once, the longest first.
///
/// A text longer than `tokens_per_run` runs alone. The longest go first, because then the last runs are short ones and
/// several workers end together.
pub fn plan(lengths: &[usize], tokens_per_run: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| (std::cmp::Reverse(lengths[index]), index));
    let mut runs: Vec<Vec<usize>> = Vec::new();
    for index in order {
        match runs.last_mut() {
            Some(run) if run.len() < ROWS_PER_RUN && (run.len() + 1) * lengths[run[0]] <= tokens_per_run => run.push(index),
            Some(_) | None => runs.push(vec![index]),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{ROWS_PER_RUN, plan};

    #[track_caller]
    fn check(lengths: &[usize], expected: &[&[usize]]) {
        assert_eq!(plan(lengths, 100), expected);
    }

    #[test]
    fn runs() {
        check(&[], &[]);
        check(&[0], &[&[0]]);
        check(&[5, 60, 40, 40], &[&[1], &[2, 3], &[0]]);
        check(&[50, 50, 50], &[&[0, 1], &[2]]);
        check(&[256, 2, 256], &[&[0], &[2], &[1]]);
        assert_eq!(plan(&[1; 200], 100).iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 64, 8]);
    }

    proptest! {
        #[test]
        fn each_text_runs_once_within_the_limits(lengths in vec(0usize..300, 0..500), budget in 1usize..2000) {
            let runs = plan(&lengths, budget);
            for run in &runs {
                let longest = run.iter().map(|&index| lengths[index]).max().unwrap_or(0);
                prop_assert!(run.len() == 1 || (run.len() * longest <= budget && run.len() <= ROWS_PER_RUN));
            }
            let mut seen: Vec<usize> = runs.concat();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
