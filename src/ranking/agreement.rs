//! How far judges agree with each other, and how sure a share is.

use super::standings::TWO_SIDED_95;

/// Krippendorff's alpha for names without an order (Krippendorff 2011, section C): 1 where the values that a unit was given
/// always agree, 0 where they agree as values drawn at random from all would. `units` holds the values that each unit was
/// given, one by each judge that saw it; those with fewer than two values say nothing.
///
/// `None` where no unit has two values, or all values are the same one: nothing could have disagreed then.
pub fn nominal_alpha(units: &[Vec<usize>]) -> Option<f64> {
    let paired = || units.iter().filter(|values| values.len() > 1);
    let names = paired().flatten().max()? + 1;
    let mut totals = vec![0.0; names];
    let mut disagreements = 0.0;
    for values in paired() {
        let mut counts = vec![0.0; names];
        for &value in values {
            counts[value] += 1.0;
            totals[value] += 1.0;
        }
        let given = values.len() as f64;
        let equal: f64 = counts.iter().map(|count| count * (count - 1.0)).sum();
        disagreements += (given * (given - 1.0) - equal) / (given - 1.0);
    }
    let all: f64 = totals.iter().sum();
    let expected = all * all - totals.iter().map(|total| total * total).sum::<f64>();
    (expected > 0.0).then(|| 1.0 - (all - 1.0) * disagreements / expected)
}

/// The interval of 95 % of a share, `hits` of `count` (Wilson 1927); `None` of a count of 0.
pub fn wilson(hits: usize, count: usize) -> Option<[f64; 2]> {
    if count == 0 {
        return None;
    }
    let (n, share) = (count as f64, hits as f64 / count as f64);
    let squared = TWO_SIDED_95 * TWO_SIDED_95;
    let middle = (share + squared / (2.0 * n)) / (1.0 + squared / n);
    let half = TWO_SIDED_95 / (1.0 + squared / n)
        * (share * (1.0 - share) / n + squared / (4.0 * n * n)).sqrt();
    Some([(middle - half).max(0.0), (middle + half).min(1.0)])
}
