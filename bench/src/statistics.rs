//! What a set of samples says.
//!
//! Owns: medians, quartiles, how sure a median and a ratio of two medians are, and
//! when that is called a difference. Pure: the same samples give the same answer.

use serde::{Deserialize, Serialize};

/// How many times the rounds are drawn anew to see how far a ratio may be off.
const DRAWS: usize = 2000;

/// The middle and the spread of some samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many samples there are.
    pub count: usize,
    /// The smallest: what it takes when nothing disturbs.
    pub least: f64,
    /// A quarter of the samples are below.
    pub lower_quartile: f64,
    /// Half of the samples are below.
    pub median: f64,
    /// A quarter of the samples are above.
    pub upper_quartile: f64,
}

/// A ratio of two medians, or a median, with the range that holds it in 95 of 100 cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Of all samples.
    pub value: f64,
    /// The lower end of the range.
    pub low: f64,
    /// The upper end of the range.
    pub high: f64,
}

impl Ratio {
    /// A value with the range of those, sorted, that were drawn for it.
    fn of(value: f64, drawn: &[f64]) -> Self {
        Self {
            value,
            low: quantile(drawn, 0.025),
            high: quantile(drawn, 0.975),
        }
    }
}

/// Summarises samples; `None` if there are none.
pub fn summarise(samples: &[f64]) -> Option<Summary> {
    let sorted = sorted(samples);
    Some(Summary {
        count: sorted.len(),
        least: *sorted.first()?,
        lower_quartile: quantile(&sorted, 0.25),
        median: quantile(&sorted, 0.5),
        upper_quartile: quantile(&sorted, 0.75),
    })
}

/// The rounds it takes before anything is called a difference: with fewer, all
/// of them fall on the same side by chance more often than once in twenty.
pub const ENOUGH: usize = 6;

/// The same where `comparisons` are looked at together. Of n rounds all fall on the same
/// side by chance once in 2^(n - 1), and that may be one in twenty of all comparisons.
pub fn enough(comparisons: usize) -> usize {
    1 + (20 * comparisons.max(1)).next_power_of_two().ilog2() as usize
}

/// What can be said of a ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Fewer than [`ENOUGH`] rounds.
    TooFew,
    /// The interval holds 1.
    NoDifference,
    /// The ratio is below 1, and so is the whole interval.
    Less,
    /// The ratio is above 1, and so is the whole interval.
    More,
}

/// How the median of `samples` compares with that of `baseline`.
///
/// Sample N of both was taken in round N, so what slowed the machine in a round
/// slowed both: rounds are drawn as a whole, with replacement, and the range is
/// that of the ratios so drawn (a paired bootstrap).
pub fn compare(samples: &[f64], baseline: &[f64]) -> Option<Ratio> {
    let (value, drawn) = draw_ratios(samples, baseline)?;
    Some(Ratio::of(value, &drawn))
}

/// The same with what is to be said of it, where it is one of `comparisons` that
/// are looked at together, the sizes of a message say: one in twenty would differ
/// by chance, so each has to be surer by that number (Bonferroni).
pub fn judge(samples: &[f64], baseline: &[f64], comparisons: usize) -> Option<(Ratio, Verdict)> {
    let (value, drawn) = draw_ratios(samples, baseline)?;
    let rounds = samples.len().min(baseline.len());
    Some(verdict(value, &drawn, rounds, comparisons))
}

/// The same for samples of two runs, whose rounds have nothing to do with one
/// another: each side is drawn by itself.
pub fn judge_unpaired(
    samples: &[f64],
    baseline: &[f64],
    comparisons: usize,
) -> Option<(Ratio, Verdict)> {
    let value = summarise(samples)?.median / summarise(baseline)?.median;
    if !value.is_finite() {
        return None;
    }
    let mut random = Random::default();
    let mut drawn: Vec<f64> = (0..DRAWS)
        .map(|_| median_of_drawn(samples, &mut random) / median_of_drawn(baseline, &mut random))
        .collect();
    drawn.sort_by(f64::total_cmp);
    let rounds = samples.len().min(baseline.len());
    Some(verdict(value, &drawn, rounds, comparisons))
}

fn median_of_drawn(samples: &[f64], random: &mut Random) -> f64 {
    let mut again: Vec<f64> = samples
        .iter()
        .map(|_| samples[random.below(samples.len())])
        .collect();
    again.sort_by(f64::total_cmp);
    quantile(&again, 0.5)
}

fn verdict(value: f64, drawn: &[f64], rounds: usize, comparisons: usize) -> (Ratio, Verdict) {
    let ratio = Ratio::of(value, drawn);
    let tail = 0.025 / comparisons.max(1) as f64;
    let verdict = if rounds < ENOUGH {
        Verdict::TooFew
    } else if rounds < enough(comparisons) {
        // Sure alone is not sure among many.
        Verdict::NoDifference
    } else if quantile(drawn, 1.0 - tail) < 1.0 {
        Verdict::Less
    } else if quantile(drawn, tail) > 1.0 {
        Verdict::More
    } else {
        Verdict::NoDifference
    };
    (ratio, verdict)
}

/// The ratio over several points, the sizes of a message say, as one: of each round the
/// middle one of its ratios, samples to baseline, and of these the median. That a
/// little is lost at every size shows here before it shows at one.
pub fn compare_all(points: &[(&[f64], &[f64])]) -> Option<Ratio> {
    let rounds = points
        .iter()
        .map(|(samples, baseline)| samples.len().min(baseline.len()))
        .min()?;
    let middles: Vec<f64> = (0..rounds)
        .filter_map(|round| {
            let of_round =
                |(samples, baseline): &(&[f64], &[f64])| samples[round] / baseline[round];
            let ratios: Vec<f64> = points.iter().map(of_round).collect();
            Some(summarise(&ratios)?.median).filter(|middle| middle.is_finite())
        })
        .collect();
    median(&middles)
}

/// The median of some samples, with the range that holds the true one in 95 of
/// 100 cases, by the same way of drawing.
pub fn median(samples: &[f64]) -> Option<Ratio> {
    let value = summarise(samples)?.median;
    let mut random = Random::default();
    let drawn: Vec<f64> = (0..DRAWS)
        .map(|_| median_of_drawn(samples, &mut random))
        .collect();
    let drawn = sorted(&drawn);
    Some(Ratio::of(value, &drawn))
}

/// The ratio of the medians, and sorted ratios of rounds drawn anew.
fn draw_ratios(samples: &[f64], baseline: &[f64]) -> Option<(f64, Vec<f64>)> {
    draw(samples, baseline, |ours, theirs| ours / theirs)
}

/// How far the median of `samples` is above that of `baseline`, drawn as in
/// [`compare`].
pub fn difference(samples: &[f64], baseline: &[f64]) -> Option<Ratio> {
    let (value, drawn) = draw(samples, baseline, |ours, theirs| ours - theirs)?;
    Some(Ratio::of(value, &drawn))
}

fn draw(
    samples: &[f64],
    baseline: &[f64],
    of_medians: impl Fn(f64, f64) -> f64,
) -> Option<(f64, Vec<f64>)> {
    let rounds = samples.len().min(baseline.len());
    let (samples, baseline) = (&samples[..rounds], &baseline[..rounds]);
    let value = of_medians(summarise(samples)?.median, summarise(baseline)?.median);
    if !value.is_finite() {
        return None;
    }
    let mut random = Random::default();
    let mut drawn = Vec::with_capacity(DRAWS);
    let (mut a, mut b) = (vec![0.0; rounds], vec![0.0; rounds]);
    for _ in 0..DRAWS {
        for place in 0..rounds {
            let round = random.below(rounds);
            a[place] = samples[round];
            b[place] = baseline[round];
        }
        a.sort_by(f64::total_cmp);
        b.sort_by(f64::total_cmp);
        drawn.push(of_medians(quantile(&a, 0.5), quantile(&b, 0.5)));
    }
    Some((value, sorted(&drawn)))
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The value at a fraction of the way through sorted samples, between two of
/// them in proportion (R's type 7). There is at least one sample.
fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let place = fraction * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

/// Numbers that are the same in each run, so that the same samples give the same
/// range: xorshift64*, Vigna 2016.
#[derive(Debug)]
pub struct Random(u64);

impl Default for Random {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Random {
    /// The numbers below `count`, in any order.
    pub fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        number as usize % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_difference_is_certain_however_the_rounds_vary() {
        let baseline = [10.0, 14.0, 11.0, 30.0, 12.0, 13.0, 9.0];
        let samples = baseline.map(|sample| sample + 2.5);
        let ratio = difference(&samples, &baseline).unwrap();
        assert_eq!((ratio.value, ratio.low, ratio.high), (2.5, 2.5, 2.5));
        assert!(difference(&[], &baseline).is_none());
    }

    #[test]
    fn nothing_measured_gives_no_summary() {
        assert_eq!(summarise(&[]), None);
        assert_eq!(compare(&[], &[1.0]), None);
    }

    #[test]
    fn one_sample_is_its_own_middle() {
        let summary = summarise(&[7.0]).unwrap();
        assert_eq!(
            (
                summary.least,
                summary.lower_quartile,
                summary.median,
                summary.upper_quartile
            ),
            (7.0, 7.0, 7.0, 7.0)
        );
    }

    #[test]
    fn known_samples_have_the_known_quartiles() {
        // R: quantile(c(5, 1, 4, 2, 3, 10)) is 1.00 2.25 3.50 4.75 10.00
        let summary = summarise(&[5.0, 1.0, 4.0, 2.0, 3.0, 10.0]).unwrap();
        assert_eq!(summary.count, 6);
        assert_eq!(summary.least, 1.0);
        assert_eq!(summary.lower_quartile, 2.25);
        assert_eq!(summary.median, 3.5);
        assert_eq!(summary.upper_quartile, 4.75);
    }

    #[test]
    fn one_wild_sample_does_not_move_the_median() {
        let calm = summarise(&[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let wild = summarise(&[1.0, 2.0, 3.0, 4.0, 5e9]).unwrap();
        assert_eq!(calm.median, wild.median);
    }

    #[test]
    fn samples_in_proportion_have_an_exact_ratio() {
        // Every round twice as slow as the one before: the ratio is sure all the same.
        let baseline: Vec<f64> = (0..20).map(|round| f64::from(1 << round)).collect();
        let samples: Vec<f64> = baseline.iter().map(|time| time * 1.5).collect();
        let ratio = compare(&samples, &baseline).unwrap();
        assert_eq!((ratio.value, ratio.low, ratio.high), (1.5, 1.5, 1.5));
    }

    #[test]
    fn an_order_names_everybody_once_and_is_not_always_the_same() {
        let mut random = Random::default();
        let orders: Vec<_> = (0..10).map(|_| random.order(8)).collect();
        for order in &orders {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6, 7]);
        }
        assert!(orders.iter().any(|order| *order != orders[0]));
    }

    #[test]
    fn unsteady_samples_give_a_range_around_the_ratio() {
        let baseline = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0];
        let samples = [2.0, 1.9, 2.4, 1.7, 2.1, 2.2, 1.8];
        let ratio = compare(&samples, &baseline).unwrap();
        assert_eq!(ratio.value, 2.0);
        assert!(ratio.low < 2.0 && 2.0 < ratio.high, "{ratio:?}");
        assert_eq!(
            compare(&samples, &baseline),
            Some(ratio),
            "the same each time"
        );
    }

    #[test]
    fn a_clear_difference_is_called_one_and_noise_is_not() {
        let baseline = [1.0, 1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.05];
        let slower: Vec<f64> = baseline.iter().map(|time| time * 1.2).collect();
        let noise = [1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.2, 0.85];
        let verdict = |samples: &[f64], count| judge(samples, &baseline, count).unwrap().1;
        assert_eq!(verdict(&slower, 1), Verdict::More);
        assert_eq!(verdict(&slower, 6), Verdict::More);
        assert_eq!(
            verdict(&slower, 7),
            Verdict::NoDifference,
            "in eight rounds"
        );
        assert_eq!(verdict(&noise, 1), Verdict::NoDifference);
        let faster: Vec<f64> = baseline.iter().map(|time| time * 0.8).collect();
        assert_eq!(verdict(&faster, 1), Verdict::Less);
    }

    #[test]
    fn what_is_sure_alone_may_not_be_sure_among_many() {
        let baseline = [1.0; 11];
        let samples = [1.2, 1.2, 0.9, 1.2, 1.2, 1.2, 0.9, 1.2, 1.2, 1.2, 1.2];
        assert_eq!(judge(&samples, &baseline, 1).unwrap().1, Verdict::More);
        assert_eq!(
            judge(&samples, &baseline, 50).unwrap().1,
            Verdict::NoDifference
        );
    }

    #[test]
    fn few_rounds_never_make_a_difference() {
        let (one, two) = ([1.0; 5], [2.0; 5]);
        assert_eq!(judge(&two, &one, 1).unwrap().1, Verdict::TooFew);
        let (one, two) = ([1.0; 6], [2.0; 6]);
        assert_eq!(judge(&two, &one, 1).unwrap().1, Verdict::More);
    }

    #[test]
    fn more_comparisons_take_more_rounds() {
        let rounds = [1, 3, 6, 7, 25, 51].map(enough);
        assert_eq!(rounds, [ENOUGH, 7, 8, 9, 10, 11]);
        for comparisons in 1..100 {
            let by_chance = |rounds: usize| 0.5_f64.powi(rounds as i32 - 1) * comparisons as f64;
            let least = enough(comparisons);
            assert!(by_chance(least) <= 0.05 && by_chance(least - 1) > 0.05);
        }
    }

    #[test]
    fn a_little_lost_at_every_size_shows_over_all_of_them() {
        let baseline = [10.0, 30.0, 11.0, 12.0, 10.0, 14.0];
        let small = [10.3, 31.0, 11.3, 12.5, 10.4, 14.1];
        let large = [10.4, 30.6, 11.2, 12.1, 10.5, 14.5];
        let ratio = compare_all(&[(&small, &baseline), (&large, &baseline)]).unwrap();
        assert!(1.0 < ratio.low && ratio.high < 1.05, "{ratio:?}");
        assert_eq!(compare_all(&[]), None);
        assert_eq!(compare_all(&[(&small, &[])]), None);
    }

    #[test]
    fn a_median_lies_in_its_interval_and_the_interval_among_the_samples() {
        let samples = [9.0, 1.0, 5.0, 4.0, 6.0, 3.0, 7.0];
        let range = median(&samples).unwrap();
        assert_eq!(range.value, 5.0);
        assert!(1.0 <= range.low && range.low < 5.0 && 5.0 < range.high && range.high <= 9.0);
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn nothing_is_no_multiple_of_nothing() {
        assert_eq!(compare(&[1.0, 1.0], &[0.0, 0.0]), None);
        assert_eq!(judge(&[0.0], &[0.0], 1), None);
    }
}
