//! Statistics of plain numbers.

/// The quantile of sorted values with linear interpolation, as NumPy's default (Hyndman and Fan 1996, type 7); NaN of no
/// values. `share` is between 0 and 1.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}
