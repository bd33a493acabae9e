//! The distributions that tests are read from: normal, Student's t and χ².

// Its erfc is exact to the last digits in the tail too.
use libm::erfc;
use statrs::function::{beta::beta_reg, erf::erfc_inv, gamma::gamma_ur};

const SQRT_2_PI: f64 = 2.506_628_274_631_000_5;

/// Above so many degrees of freedom, t is turned into a normal deviate by an expansion that is exact to 1e-12 there.
const MANY: f64 = 2_000.0;

/// The density of the standard normal distribution.
pub fn pdf(z: f64) -> f64 {
    (-0.5 * z * z).exp() / SQRT_2_PI
}

/// The probability of a standard normal value of at most `z`.
///
/// ```
/// use selvedge_experiments::analysis::normal;
/// assert!((normal::cdf(1.959963984540054) - 0.975).abs() < 1e-14);
/// ```
pub fn cdf(z: f64) -> f64 {
    0.5 * erfc(-z * std::f64::consts::FRAC_1_SQRT_2)
}

/// The probability of a standard normal value of at least `z`, exact in the tail too.
pub fn tail(z: f64) -> f64 {
    0.5 * erfc(z * std::f64::consts::FRAC_1_SQRT_2)
}

/// The value that a standard normal one exceeds with probability `p`.
pub fn quantile_of_tail(p: f64) -> f64 {
    let z = std::f64::consts::SQRT_2 * erfc_inv(2.0 * p);
    // A step of Newton's method takes away what the approximation leaves.
    let step = (tail(z) - p) / pdf(z);
    if step.is_finite() { z + step } else { z }
}

/// The value that a standard normal one does not exceed with probability `p`.
pub fn quantile(p: f64) -> f64 {
    -quantile_of_tail(p)
}

/// The probability that Student's t with `df` degrees of freedom is at least `t` away from 0.
pub fn t_two_sided(t: f64, df: f64) -> f64 {
    if df > MANY { 2.0 * tail(deviate(t.abs(), df)) } else { beta_reg(df / 2.0, 0.5, df / (df + t * t)) }
}

/// The value that Student's t with `df` degrees of freedom exceeds with probability `p`, for `p` below a half.
///
/// Newton's method, from the normal value on.
pub fn t_quantile_of_tail(p: f64, df: f64) -> f64 {
    let ln_scale = ln_t_scale(df);
    let mut t = quantile_of_tail(p);
    for _ in 0..60 {
        let density = (ln_scale - 0.5 * (df + 1.0) * (t * t / df).ln_1p()).exp();
        let step = (0.5 * t_two_sided(t, df) - p) / density;
        t = (t + step).max(t * 0.5);
        if step.abs() <= 1e-13 * t.abs() {
            break;
        }
    }
    t
}

/// The logarithm of the density of t at 0.
fn ln_t_scale(df: f64) -> f64 {
    if df > MANY {
        // Γ((ν+1)/2)/Γ(ν/2)·√(2/ν) = 1 − 1/(4ν) + 1/(32ν²) + …
        return (1.0 - 0.25 / df + 1.0 / (32.0 * df * df)).ln() - SQRT_2_PI.ln();
    }
    let ln_gamma = statrs::function::gamma::ln_gamma;
    ln_gamma(0.5 * (df + 1.0)) - ln_gamma(0.5 * df) - 0.5 * (std::f64::consts::PI * df).ln()
}

/// The normal deviate of a t value: G. W. Hill, "Algorithm 395: Student's t-distribution", CACM 13 (1970).
fn deviate(t: f64, df: f64) -> f64 {
    let a = df - 0.5;
    let b = 48.0 * a * a;
    let squared = a * (t * t / df).ln_1p();
    let series = ((((-0.4 * squared - 3.3) * squared - 24.0) * squared - 85.5) / (0.8 * squared * squared + 100.0 + b)
        + squared
        + 3.0)
        / b
        + 1.0;
    series * squared.sqrt()
}

/// The probability of a χ² value of at least `x` with `df` degrees of freedom.
pub fn chi_squared_tail(x: f64, df: f64) -> f64 {
    if x <= 0.0 { 1.0 } else { gamma_ur(df / 2.0, x / 2.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, wanted: f64, relative: f64) {
        assert!(((found - wanted) / wanted).abs() <= relative, "{found:e}, not {wanted:e}");
    }

    /// References: scipy 1.x, `norm.sf`, `norm.isf`, `t.sf`, `t.isf`, `chi2.sf`.
    #[test]
    fn values_are_scipys() {
        close(tail(8.0), 6.22096057427174e-16, 1e-12);
        close(tail(4.87688), 5.38884776875622e-7, 1e-13);
        close(quantile_of_tail(0.025), 1.959963984540054, 1e-14);
        close(quantile_of_tail(1e-12), 7.034483825301131, 1e-12);
        close(chi_squared_tail(3.84, 1.0), 0.05004352124870519, 1e-12);
        close(chi_squared_tail(12.5, 4.0), 0.013995792487650894, 1e-12);
        close(0.5 * t_two_sided(2.1, 7.0), 0.036935598106461326, 1e-10);
        close(t_quantile_of_tail(0.025, 12.5), 2.1691859427125406, 1e-10);
        close(0.5 * t_two_sided(4.0, 30_000.0), 3.174714349832983e-5, 1e-10);
        close(t_quantile_of_tail(1e-4, 30_000.0), 3.719476178323417, 1e-10);
    }

    #[test]
    fn t_is_continuous_where_the_method_changes() {
        for t in [0.1, 1.0, 2.0, 5.0, 8.0] {
            let exact = beta_reg(MANY / 2.0, 0.5, MANY / (MANY + t * t));
            close(2.0 * tail(deviate(t, MANY)), exact, 1e-9);
        }
        for df in [3.0, 30.0, 1_999.0, 2_001.0, 2e7] {
            for p in [0.4, 0.025, 1e-6] {
                close(0.5 * t_two_sided(t_quantile_of_tail(p, df), df), p, 1e-10);
            }
        }
    }
}
