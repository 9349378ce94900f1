//! Calibration of probabilities of being right.

/// Bins of equal width.
const BINS: usize = 10;

/// Expected calibration error (Guo et al. 2017, arXiv 1706.04599, equation 3) of judges of pairs: probabilities that the
/// answer which was preferred is, 0 to 1, to the mean absolute gap between how sure the judge is of the answer that it
/// takes and how often that is right, over 10 bins of equal width by how many fall into each. 0 without any.
pub fn expected_calibration_error(of_preferred: &[f64]) -> f64 {
    // (number, sum of confidences, number right)
    let mut bins = [(0.0, 0.0, 0.0); BINS];
    for &probability in of_preferred {
        let sure = probability.max(1.0 - probability);
        // A judge that is undecided is right half the time.
        let right = match probability.total_cmp(&0.5) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        let place = ((sure * BINS as f64) as usize).min(BINS - 1);
        let bin = &mut bins[place];
        *bin = (bin.0 + 1.0, bin.1 + sure, bin.2 + right);
    }
    let gaps: f64 = bins.iter().map(|bin| (bin.1 - bin.2).abs()).sum();
    gaps / of_preferred.len().max(1) as f64
}
