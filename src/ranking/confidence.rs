//! How well confidences tell right answers from wrong ones, where answering may be refused (selective
//! classification). Strengths from comparisons of questions are such confidences (relative confidence, 2502.01126).

use crate::error::{Error, Result};

/// Accuracy over the `k` most confident answers, for `k = 1..=n`. Equal confidences each count the mean accuracy of
/// their block, so that the order of the input does not matter. `[n]`
///
/// An error if there is nothing, the lengths differ, or a confidence is not a number.
pub fn selective_accuracy(confidence: &[f64], correct: &[bool]) -> Result<Vec<f64>> {
    let blocks = blocks(confidence, correct)?;
    let (mut right, mut answered) = (0.0, 0.0);
    let mut accuracy = Vec::with_capacity(confidence.len());
    for (size, right_in_block) in blocks {
        for _ in 0..size {
            right += right_in_block as f64 / size as f64;
            answered += 1.0;
            accuracy.push(right / answered);
        }
    }
    Ok(accuracy)
}

/// Area under accuracy over coverage: the mean of [`selective_accuracy`] over `k`.
pub fn selective_auc(confidence: &[f64], correct: &[bool]) -> Result<f64> {
    let accuracy = selective_accuracy(confidence, correct)?;
    Ok(accuracy.iter().sum::<f64>() / accuracy.len() as f64)
}

/// Probability that a right answer has a higher confidence than a wrong one, equal ones counting half.
///
/// An error as in [`selective_accuracy`], and if all answers are right or all are wrong.
pub fn auroc(confidence: &[f64], correct: &[bool]) -> Result<f64> {
    let blocks = blocks(confidence, correct)?;
    let (mut right_before, mut pairs_won) = (0.0, 0.0);
    let (mut all_right, mut all_wrong) = (0.0, 0.0);
    for (size, right) in blocks {
        let (right, wrong) = (right as f64, (size - right) as f64);
        pairs_won += wrong * (right_before + 0.5 * right);
        right_before += right;
        all_right += right;
        all_wrong += wrong;
    }
    if all_right * all_wrong > 0.0 {
        Ok(pairs_won / (all_right * all_wrong))
    } else {
        Err(Error::config(
            "AUROC needs right and wrong answers: all are the same",
        ))
    }
}

/// Size and number of right answers of each block of equal confidence, the most confident first.
fn blocks(confidence: &[f64], correct: &[bool]) -> Result<Vec<(usize, usize)>> {
    if confidence.is_empty() || confidence.len() != correct.len() {
        return Err(Error::config(format!(
            "{} confidences for {} answers",
            confidence.len(),
            correct.len()
        )));
    }
    if let Some(place) = confidence.iter().position(|value| value.is_nan()) {
        return Err(Error::config(format!(
            "confidence {} is not a number",
            place + 1
        )));
    }
    let mut answers: Vec<(f64, bool)> = confidence
        .iter()
        .copied()
        .zip(correct.iter().copied())
        .collect();
    // Zero and minus zero are one confidence, so partial order and not bits; NaN is out.
    answers.sort_by(|one, other| {
        other
            .0
            .partial_cmp(&one.0)
            .unwrap_or(std::cmp::Ordering::Equal)
    });
    // In descending order, not smaller means equal.
    let blocks = answers.chunk_by(|one, other| one.0 <= other.0);
    Ok(blocks
        .map(|block| (block.len(), block.iter().filter(|answer| answer.1).count()))
        .collect())
}
